"""Promises of `policies/agents.yaml`: what an agent gets of it, and what becomes of one that takes more."""

import json
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest

from gateway.policy.agents import NOT_YET
from tests.integration.process import Gateway, Home, running_gateway, until
from tests.integration.test_hostile_workers import beside_a_stream
from tests.integration.test_start import COMMAND
from tests.integration.upstream import Connection, ScriptedUpstream, called, said

TAKER = """
import errno
import json
import os
import signal
import time

from agents import Agent, function_tool

__gateway__ = {"upstream": "chat", "model": "of-the-agent"}
HERE, SCRATCH = os.path.dirname(__file__), os.environ["TMPDIR"]

def hold(most_mb):
    held = []
    while len(held) * 4 < most_mb:
        held.append(os.urandom(4 << 20))
        time.sleep(0.002)
    signal.pause()

def eat(children):
    for _ in range(children):
        os.fork() or hold(80)
    hold(0 if children else 1000)

def crowd(_):
    pids = []
    try:
        while len(pids) < 100:
            pids.append(os.fork())
            pids[-1] or signal.pause()
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)

def open_many(_):
    held = []
    try:
        while len(held) < 1000:
            held.append(open("/dev/null"))
    finally:
        for each in held:
            each.close()

def write(path, mb):
    with open(path, "wb") as file:
        for _ in range(mb):
            file.write(bytes(1 << 20))

def write_many(count):
    try:
        for number in range(count):
            write(f"{SCRATCH}/{number}", 1)
    finally:
        for name in os.listdir(SCRATCH):
            os.unlink(f"{SCRATCH}/{name}")

TAKES = {
    "memory": eat, "cpu": lambda _: any(iter(int, 1)), "processes": crowd, "descriptors": open_many, "disk": write_many,
    "file": lambda mb: write(SCRATCH + "/large", mb),
    "its folder": lambda _: write(HERE + "/new", 1),
    "its code": lambda _: os.chmod(__file__, 0o777),
}

@function_tool
def take(what: str, count: int = 0) -> str:
    "Take something, and say what came of it."
    try:
        TAKES[what](count)
        return "taken"
    except OSError as error:
        return errno.errorcode[error.errno]

@function_tool
def see() -> str:
    "Say what is around, and leave something behind."
    seen = {"environ": dict(os.environ), "scratch": os.listdir(SCRATCH)}
    write(SCRATCH + "/left", 1)
    return json.dumps(seen)

@function_tool
def leave() -> str:
    "End."
    os.kill(os.getpid(), signal.SIGKILL)

agent = Agent(name="Taker", tools=[take, see, leave])
"""
MB = 128
POLICY: dict[str, Any] = {
    "defaults": {"replicas": 1},
    "agents": {
        "default/eat*": {"limits": {"memory_mb": MB, "file_mb": 1000}},
        "default/burner": {"limits": {"cpu_seconds": 1}, "idle_seconds": 60},
        "*/small*": {"limits": {"processes": 20, "open_files": 60, "file_mb": 2}, "env": {"UNITS": "metric", "N": 1}},
        "default/smaller": {"limits": {"scratch_mb": 3}, "env": {"N": "2"}},
        "default/narrow*": {"concurrent_runs": 1, "queue": 0},
        "default/narrow-queue": {"queue": 1},
        "default/sent": {"upstream": "other", "model": "of-policy"},
        "default/refused": {"upstreams": ["oth*"]},
    },
}
AGENTS = ("steady", "eater", "eaters", "burner", "smaller", "narrow", "narrow-queue", "sent", "refused")


@pytest.fixture(scope="module")
async def gateway(home: Home, upstream: ScriptedUpstream) -> AsyncIterator[Gateway]:
    """A gateway whose policy gives each agent something else."""
    chat, other = ({"base_url": upstream.url, "api_key": f"sk-{name}", "model": "m"} for name in ("chat", "other"))
    home.upstreams(chat=chat, other=other)
    upstream.models = ["of-the-agent", "of-policy"]
    (home.root / "policies" / "agents.yaml").write_text(json.dumps(POLICY))
    for each in AGENTS:
        home.agent(each, TAKER)
    async with running_gateway(home, SECRET_THING="of-the-gateway") as started:
        yield started


async def told(gateway: Gateway, upstream: ScriptedUpstream, agent: str, tool: str, **arguments: Any) -> str:
    """What a tool of an agent returns."""
    upstream.script(called(tool, arguments), said("Done."))
    answer = await gateway.ask(agent)
    assert answer.status_code == 200, answer.text
    return str(upstream.received[1].body["messages"][-1]["content"])


async def ends(gateway: Gateway, upstream: ScriptedUpstream, agent: str, what: str, count: int = 0) -> str:
    """Have an agent take more than it may, see that it is replaced, and return what is said in the log of it."""
    since = len(gateway.log)
    async with beside_a_stream(gateway, upstream):
        upstream.script(called("take", {"what": what, "count": count}))
        answer = await gateway.ask(agent)
        line = await gateway.logged("worker.end", since=since, agent=f"default/{agent}", kind="limit")
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "worker_lost")
        assert line["reason"] in answer.json()["error"]["message"]
        upstream.script(said("I am back."))
        assert "I am back." in (await gateway.ask(agent)).text
    return str(line["reason"])


@pytest.mark.parametrize(("agent", "children"), [("eater", 0), ("eaters", 4)])
async def test_an_agent_that_takes_too_much_memory_is_ended_and_told_so(
    gateway: Gateway, upstream: ScriptedUpstream, agent: str, children: int
) -> None:
    """One process, or four that have it together; another agent's stream goes on, and the next request works."""
    assert await ends(gateway, upstream, agent, "memory", children) == f"out of memory at {MB} MB"


async def test_an_endless_loop_has_an_end_and_is_told(gateway: Gateway, upstream: ScriptedUpstream) -> None:
    """By the CPU time that it took; it is not called a crash."""
    assert await ends(gateway, upstream, "burner", "cpu") == "out of CPU time at 1 s"


@pytest.mark.parametrize(
    ("what", "count", "answer"),
    [("processes", 0, "EAGAIN"), ("descriptors", 0, "EMFILE"), ("file", 3, "EFBIG"), ("disk", 4, "ENOSPC")],
)
async def test_what_the_kernel_refuses_costs_an_agent_nothing_else(
    gateway: Gateway, upstream: ScriptedUpstream, what: str, count: int, answer: str
) -> None:
    """Its tool gets an OSError, and the worker lives."""
    health = await gateway.status("default/smaller")
    if what == "disk" and health["walls"] != "full":
        pytest.skip("without a root of its own a worker is ended for it, and that within seconds")
    assert await told(gateway, upstream, "smaller", "take", what=what, count=count) == answer
    assert (await gateway.status("default/smaller"))["pid"] == health["pid"]


async def test_an_agent_cannot_change_itself(gateway: Gateway, upstream: ScriptedUpstream) -> None:
    """Its folder is a copy that it reads."""
    for what in ("its folder", "its code"):
        assert await told(gateway, upstream, "smaller", "take", what=what) in {"EROFS", "EACCES", "EPERM"}


async def test_an_agent_finds_what_policy_names_in_its_environment_and_nothing_else(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    """What a later glob sets comes first; of the gateway's own variables there is none."""
    seen = json.loads(await told(gateway, upstream, "smaller", "see"))["environ"]
    assert (seen.pop("UNITS"), seen.pop("N")) == ("metric", "2")
    fixed = {"PATH", "LANG", "HOME", "TMPDIR", "USER", "OPENAI_API_KEY", "PYTHONUNBUFFERED", "OPENAI_DEFAULT_MODEL"}
    assert set(seen) == fixed
    assert not {"sk-chat", "of-the-gateway"} & set(seen.values())
    assert "UNITS" not in json.loads(await told(gateway, upstream, "eater", "see"))["environ"]


async def test_scratch_is_empty_at_every_start(gateway: Gateway, upstream: ScriptedUpstream) -> None:
    """What a worker has left there its next one does not find, nor anybody on disk."""
    await told(gateway, upstream, "sent", "see")
    assert json.loads(await told(gateway, upstream, "sent", "see"))["scratch"] == ["left"]
    upstream.script(called("leave", {}))
    assert (await gateway.ask("sent")).json()["error"]["code"] == "worker_lost"
    await gateway.logged("worker.ready", agent="default/sent", generation=2)
    assert json.loads(await told(gateway, upstream, "sent", "see"))["scratch"] == []
    folder = gateway.home.root / ".agent-gateway" / "scratch"
    own = 0 if (await gateway.status("default/sent"))["walls"] == "full" else len(AGENTS)
    await until(lambda: len(list(folder.iterdir())) <= own)


@pytest.mark.parametrize(("agent", "room"), [("narrow", 0), ("narrow-queue", 1)])
async def test_a_request_that_finds_no_place_to_wait_is_refused_at_once(
    gateway: Gateway, upstream: ScriptedUpstream, agent: str, room: int
) -> None:
    """With `queue: 0` the second, with one place the third; who has a place is answered in its turn."""
    begun, hold = anyio.Event(), anyio.Event()
    found: list[httpx2.Response] = []

    async def reply(connection: Connection) -> None:
        begun.set()
        await said("Here ", "now.", hold=hold)(connection)

    async def ask() -> None:
        found.append(await gateway.ask(agent))

    upstream.script(*[reply] * 3)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(ask)
        await begun.wait()
        for _ in range(room + 1):
            tasks.start_soon(ask)
        await until(lambda: len(found) == 1)
        assert (found[0].status_code, found[0].json()["error"]["code"]) == (503, "agent_busy")
        assert int(found[0].headers["retry-after"]) > 0
        hold.set()
    assert [each.status_code for each in found[1:]] == [200] * (room + 1)


async def test_what_policy_says_of_the_model_comes_before_what_an_agent_asks_for(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    """Upstream and model of `__gateway__` are taken where policy is silent, and only where the agent may have them."""
    for agent, key, model in (("narrow", "sk-chat", "of-the-agent"), ("sent", "sk-other", "of-policy")):
        upstream.script(said("Here."))
        assert (await gateway.ask(agent)).status_code == 200
        [received] = upstream.received
        assert (received.headers["authorization"], received.body["model"]) == (f"Bearer {key}", model)
    answer = await gateway.ask("refused")
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "agent_unavailable")
    assert "asks for the upstream 'chat'; there are other" in answer.json()["error"]["message"]


async def test_keys_that_are_not_acted_on_yet_are_said(gateway: Gateway) -> None:
    """Each that the document sets, wherever it stands, once; no other."""
    async with gateway.http() as client:
        errors = (await client.get("/admin/agents/errors")).json()["errors"]
    said_ = [each["message"] for each in errors if each["stage"] == "policy"]
    assert said_ == [f"`{key}` is read, and not acted on yet" for key in NOT_YET if key in {"replicas", "idle_seconds"}]


async def test_without_walls_agents_run_and_it_is_said_loudly(tmp_path: Path, upstream: ScriptedUpstream) -> None:
    """In the banner and in `/health`; an agent of which policy wants all walls runs nevertheless."""
    home = Home(tmp_path / "home")
    home.upstreams(chat={"base_url": upstream.url, "model": "m"})
    home.policy(sandbox="full")
    home.agent("Plain")
    async with running_gateway(home, GATEWAY_SANDBOX="off") as gateway, gateway.http() as client:
        assert [line for line in gateway.output if "NO WALLS" in line and "GATEWAY_SANDBOX" in line]
        assert (await client.get("/health")).json()["walls"]["tier"] == "off"
        assert (await gateway.status("default/plain"))["walls"] == "off"
        upstream.script(said("Here."))
        assert (await gateway.ask("plain")).status_code == 200


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("defaults:\n  memory_mb: 100\n", 2, "memory_mb"),
        ("agents:\n  'labs/*':\n    limits: {memory: 100}\n", 3, "did you mean 'memory_mb'?"),
        ("agents:\n  labs:\n    start: fork\n", 2, "an id is namespace/name"),
        ("defaults:\n  start: spawn\n", 2, "fork"),
    ],
)
def test_a_mistake_in_the_policy_stops_the_gateway(tmp_path: Path, text: str, line: int, words: str) -> None:
    """It exits with 2, and says file, line and what would be right."""
    home = Home(tmp_path / "home")
    path = home.root / "policies" / "agents.yaml"
    path.write_text(text)
    command = [COMMAND, "serve", "--home", str(home.root), "--port", "0"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False, cwd="/")
    assert done.returncode == 2
    assert f"{path}:{line}: " in done.stderr
    assert words in done.stderr
