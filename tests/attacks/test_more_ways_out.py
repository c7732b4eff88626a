"""Ways out that take more than one call: through what is cleaned up after a worker, what guards it, or others need."""

import os
import signal
from collections.abc import AsyncIterator
from dataclasses import replace

import anyio
import psutil
import pytest

from tests.attacks import hosts
from tests.attacks.kinds import IS_ROOT, OTHERS, SELF, Kind, params
from tests.attacks.raid import Raid, raided
from tests.integration.process import running_gateway, until
from tests.integration.upstream import ScriptedUpstream

CLOSED = """
import os
top = os.environ["TMPDIR"]
os.makedirs(f"{top}/a/b/c")
open(f"{top}/a/b/c/file", "w").close()
os.symlink("/etc/passwd", f"{top}/link")
os.symlink("..", f"{top}/a/up")
open(os.fsencode(top) + b"/\\xff\\n\\x1b[31m", "w").close()
for each in (f"{top}/a/b", f"{top}/a", top):
    os.chmod(each, 0)
said = True
"""
DEEP = """
import os
here = os.getcwd()
os.chdir(os.environ["TMPDIR"])
try:
    for _ in range(3000):
        os.mkdir("d")
        os.chdir("d")
except OSError as full:
    print(full)
finally:
    os.chdir(here)
said = True
"""
RUNNERS = """
import os, time
for _ in range(10):
    if os.fork() == 0:
        os.setsid()
        while True:
            try:
                if os.fork():
                    os._exit(0)
            except OSError:
                time.sleep(0.001)
said = True
"""
LOUD = """
import os, time
os.set_blocking(1, False)
begun = time.monotonic()
while time.monotonic() < begun + 1:
    try:
        os.write(1, b"x\\n" * 32768)
    except BlockingIOError:
        time.sleep(0.001)
said = True
"""
THREAD = """
import threading
threads = [threading.Thread(target=lambda: None) for _ in range(8)]
for each in threads:
    each.start()
said = True
"""
STOP_GUARD = "import os, signal\nos.kill(os.getppid(), signal.SIGSTOP)\nsaid = True"
READ_GUARD = """
import os
said = []
for name in ("1", "2"):
    try:
        os.close(os.open(f"/proc/self/fd/{name}", os.O_RDONLY | os.O_NONBLOCK))
        said.append(name)
    except OSError:
        pass
"""
MANY = tuple(f"one-of-{number}" for number in range(16))
WITH_DISK = (SELF[2], OTHERS[2])


def started(kind: Kind) -> Kind:
    """Return a kind, or skip where it cannot be made."""
    if kind.mounts and not IS_ROOT:
        pytest.skip("needs root")
    return kind


@pytest.fixture(scope="module", params=params(SELF[0], SELF[2], OTHERS[0], OTHERS[2]))
async def raid(request: pytest.FixtureRequest, upstream: ScriptedUpstream) -> AsyncIterator[Raid]:
    """A gateway on hosts with and without namespaces."""
    async with raided(started(request.param), upstream) as made:
        yield made


async def killed(raid: Raid) -> None:
    """Kill the attacker's worker, and wait for the next."""
    status = await raid.gateway.status("default/attacker")
    os.kill(status["pid"], signal.SIGKILL)
    with anyio.fail_after(20):
        while (await raid.gateway.status("default/attacker"))["generation"] == status["generation"]:  # noqa: ASYNC110
            await anyio.sleep(0.05)
    await raid.ready("attacker")


async def test_a_guard_that_is_stopped_keeps_nothing_alive(raid: Raid) -> None:
    """A worker may stop its guard, where it is not the first of a namespace: it is ended and replaced all the same."""
    assert await raid.run(STOP_GUARD)
    _, _, guard, worker = await raid.line("attacker")
    await killed(raid)
    await until(lambda: not psutil.pid_exists(guard) and not psutil.pid_exists(worker))
    assert await raid.run("said = True")


async def test_runners_are_caught(raid: Raid) -> None:
    """Processes that fork and exit as fast as they can end with their worker, and hold up nobody."""
    assert await raid.run(RUNNERS)
    generation = (await raid.gateway.status("default/other"))["generation"]
    _, _, guard, _ = await raid.line("attacker")
    await killed(raid)
    await until(lambda: not psutil.pid_exists(guard), 10)
    await until(lambda: len(raid.gateway.descendants()) == 6, 10)  # warden, zygote, two guards, two workers
    assert (await raid.gateway.status("default/other"))["generation"] == generation


async def test_a_log_has_its_size(raid: Raid) -> None:
    """However much a worker says, its log keeps the last of it, and the gateway does not grow."""
    before = raid.gateway.rss()
    assert await raid.run(LOUD)
    logs = raid.gateway.home.root / ".agent-gateway" / "logs"
    assert sum(path.stat().st_size for path in logs.rglob("attacker.log*")) < 20 << 20
    assert raid.gateway.rss() - before < 30 << 20


@pytest.mark.slow
@pytest.mark.parametrize("kind", WITH_DISK, ids=lambda kind: kind.name)
@pytest.mark.parametrize("code", [CLOSED, DEEP], ids=["closed", "deep"])
async def test_what_a_worker_leaves_on_the_disk_is_removed(kind: Kind, code: str, upstream: ScriptedUpstream) -> None:
    """Whatever modes and names it gave, and however deep: it goes with the worker, and the gateway starts again."""
    async with raided(started(kind), upstream) as raid:
        scratch = raid.gateway.home.root / ".agent-gateway" / "scratch"
        try:
            assert await raid.run(code)
            await killed(raid)
            with anyio.move_on_after(5):
                while len(os.listdir(scratch)) > 2:  # noqa: ASYNC110 - of another process
                    await anyio.sleep(0.1)
            bugs = [line for line in raid.gateway.log if line["event"] in ("gateway.bug", "state.left_behind")]
            left = len(os.listdir(scratch))
            raid.gateway.process.send_signal(signal.SIGTERM)
            await raid.gateway.process.wait()
            async with running_gateway(raid.gateway.home, through=hosts.through(*kind.options)) as again:
                assert (await again.status("default/other"))["state"] == "READY"
            assert (left, bugs) == (2, [])
        finally:
            await anyio.run_process(["rm", "-rf", str(scratch)])  # for it may be too deep for Python


@pytest.mark.slow
@pytest.mark.parametrize("kind", WITH_DISK, ids=lambda kind: kind.name)
async def test_one_pool_of_processes_is_enough_for_all(kind: Kind, upstream: ScriptedUpstream) -> None:
    """The kernel counts a user's processes together: the first worker can still start threads when many others run."""
    async with raided(started(kind), upstream, MANY) as raid:
        for each in ("attacker", *MANY):
            await raid.ready(each)
        for each in ("attacker", *MANY):
            assert await raid.run(THREAD, each)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [SELF[3], OTHERS[3]], ids=lambda kind: kind.name)
async def test_policy_refuses_a_host_that_gives_too_little(kind: Kind, upstream: ScriptedUpstream) -> None:
    """Without Landlock no agent runs unless policy says so; the status names the wall."""
    async with raided(replace(started(kind), policy={}), upstream) as raid:
        status = await raid.gateway.status("default/attacker")
        assert (status["state"], status["walls"]) == ("FAILED", "partial")
        assert "missing: landlock" in status["reason"]
        answer = await raid.call("attacker", "run", code="said = 1")
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "agent_unavailable")


async def test_the_log_of_a_worker_is_not_to_be_read(raid: Raid) -> None:
    """Its output is a pipe, whose other end it can open again only where it is the gateway's own user."""
    assert await raid.run(READ_GUARD) == ([] if raid.kind.uid == 0 else ["1", "2"])
