"""Promises of zygotes: who shares one, what it lives through, and what ends with it."""

import json
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import httpx2
import psutil
import pytest

from tests.integration.process import Gateway, Home, running_gateway, until
from tests.integration.test_hostile_workers import all_gone
from tests.integration.upstream import Connection, Reply, ScriptedUpstream, called, said, silent

LOOKER = """
import ctypes
import json
import os

from agents import Agent, function_tool

@function_tool
def look() -> str:
    "Say where the C library lies in memory, and which random bytes this program was given."
    c = ctypes.CDLL(None)
    c.getauxval.restype = ctypes.c_void_p
    address = ctypes.cast(c.getpid, ctypes.c_void_p).value
    return json.dumps({"libc": address, "random": ctypes.string_at(c.getauxval(ctypes.c_ulong(25)), 16).hex()})

agent = Agent(name="Looker", tools=[look])
"""
FORKED = ("default/one", "default/two", "labs/three")
MORTAL = "default/mortal"
ALONE = ("default/alone", "default/apart")
POLICY = {"defaults": {"sandbox": "partial"}, "agents": {each: {"start": "exec"} for each in ALONE}}


def write(home: Home, upstream: ScriptedUpstream) -> None:
    """Put agents of two namespaces into a home, and two that have an address space of their own."""
    home.upstreams(chat={"base_url": upstream.url, "api_key": "sk-operator", "model": "test-model"})
    (home.root / "policies" / "agents.yaml").write_text(json.dumps(POLICY))
    for each in (*FORKED, MORTAL, *ALONE):
        home.agent(each.removeprefix("default/"), LOOKER)


@pytest.fixture(scope="module")
async def gateway(home: Home, upstream: ScriptedUpstream) -> AsyncIterator[Gateway]:
    """A gateway on such a home."""
    write(home, upstream)
    async with running_gateway(home) as started:
        yield started


async def look(gateway: Gateway, upstream: ScriptedUpstream, agent: str) -> dict[str, Any]:
    """What an agent sees of its address space."""
    upstream.script(called("look", {}), said("Seen."))
    answer = await gateway.ask(agent)
    assert answer.status_code == 200, answer.text
    seen: dict[str, Any] = json.loads(upstream.received[1].body["messages"][-1]["content"])
    return seen


async def worker_of(gateway: Gateway, agent: str) -> psutil.Process:
    """The process that runs an agent."""
    return psutil.Process((await gateway.status(agent))["pid"])


async def zygote_of(gateway: Gateway, agent: str) -> psutil.Process:
    """The process that has forked an agent's worker: its guard's parent."""
    return (await worker_of(gateway, agent)).parents()[1]


async def answers(gateway: Gateway, upstream: ScriptedUpstream, agent: str) -> None:
    upstream.script(said("Here."))
    answer = await gateway.ask(agent)
    assert (answer.status_code, answer.text.count("Here.")) == (200, 1), answer.text


async def test_a_namespace_has_one_zygote_and_shares_it_with_no_other(gateway: Gateway) -> None:
    """What one worker could read of the memory that it was forked from is of no other team."""
    one, two, three = [await zygote_of(gateway, each) for each in FORKED]
    assert one == two
    assert one != three
    assert {await zygote_of(gateway, each) for each in ALONE}.isdisjoint({one, three})


async def test_a_worker_that_is_started_by_exec_has_an_address_space_of_its_own(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    """Two that are forked share the layout and the secrets of their C library; it has neither theirs nor another's."""
    one, two, three = [await look(gateway, upstream, each) for each in FORKED]
    alone, apart = [await look(gateway, upstream, each) for each in ALONE]
    assert one == two
    for key in ("libc", "random"):
        assert len({each[key] for each in (one, three, alone, apart)}) == 4


async def test_a_zygote_of_one_worker_ends_with_it(gateway: Gateway, upstream: ScriptedUpstream) -> None:
    """The next request is answered by a new worker of a new zygote; nothing is left of the first, nor its warden."""
    worker, other = [await worker_of(gateway, each) for each in ALONE]
    family = worker.parents()[: worker.parents().index(psutil.Process(gateway.process.pid))]
    assert len(family) >= 2
    worker.kill()
    assert await all_gone([worker, *family])
    await answers(gateway, upstream, ALONE[0])
    assert await zygote_of(gateway, ALONE[0]) not in family
    assert await worker_of(gateway, ALONE[1]) == other


async def test_a_worker_that_ends_takes_nobody_with_it(gateway: Gateway, upstream: ScriptedUpstream) -> None:
    """Its zygote goes on and makes the next one; the other worker of that zygote is the same as before."""
    zygote, other = await zygote_of(gateway, MORTAL), await worker_of(gateway, FORKED[1])
    worker = await worker_of(gateway, MORTAL)
    worker.kill()
    assert await all_gone([worker])
    await answers(gateway, upstream, MORTAL)
    assert await zygote_of(gateway, MORTAL) == zygote
    assert await worker_of(gateway, FORKED[1]) == other


def by_words(replies: dict[str, Reply], begun: dict[str, anyio.Event]) -> Reply:
    """Reply to requests side by side, by what they say, and note that each has come."""

    async def reply(connection: Connection) -> None:
        words = connection.received.body["messages"][-1]["content"]
        begun[words].set()
        await replies[words](connection)

    return reply


async def test_a_killed_zygote_costs_its_own_namespace_one_answer_each(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    """Requests in flight get `worker_lost`, the next are answered by one new zygote; the others notice nothing."""
    zygote = await zygote_of(gateway, FORKED[0])
    workers = [await worker_of(gateway, each) for each in FORKED]
    begun, hold = {each: anyio.Event() for each in FORKED}, anyio.Event()
    replies = dict[str, Reply].fromkeys(FORKED[:2], silent) | {FORKED[2]: said("one ", "two", hold=hold)}
    upstream.script(*[by_words(replies, begun)] * 3)
    found: dict[str, httpx2.Response] = {}

    async def ask(agent: str) -> None:
        found[agent] = await gateway.ask(agent, agent, stream=agent == FORKED[2])

    async with anyio.create_task_group() as tasks:
        for each in FORKED:
            tasks.start_soon(ask, each)
        for event in begun.values():
            await event.wait()
        zygote.kill()
        assert await all_gone([zygote, *workers[:2]])
        await until(lambda: len(found) == 2)
        hold.set()
    for each in FORKED[:2]:
        assert (found[each].status_code, found[each].json()["error"]["code"]) == (503, "worker_lost")
        await answers(gateway, upstream, each)
    assert found[FORKED[2]].text.rstrip().endswith("[DONE]")
    one, two = [await zygote_of(gateway, each) for each in FORKED[:2]]
    assert one == two != zygote
    assert await worker_of(gateway, FORKED[2]) == workers[2]
    assert [line for line in gateway.log if line["event"] == "gateway.bug"] == []


async def test_a_killed_warden_takes_its_zygote_along(gateway: Gateway, upstream: ScriptedUpstream) -> None:
    """No zygote goes on unguarded; its workers are replaced from a new one."""
    zygote, worker = await zygote_of(gateway, FORKED[0]), await worker_of(gateway, FORKED[0])
    warden = zygote.parent()
    assert warden is not None
    before = len(gateway.log)
    warden.kill()
    assert await all_gone([warden, zygote, worker])
    await gateway.logged("worker.ready", since=before, agent=FORKED[0])
    await answers(gateway, upstream, FORKED[0])


async def test_nothing_is_left_of_any_zygote_when_the_gateway_is_killed(
    tmp_path: Path, upstream: ScriptedUpstream
) -> None:
    """No process of two namespaces and of two zygotes for one worker each."""
    home = Home(tmp_path / "home")
    write(home, upstream)
    async with running_gateway(home) as gateway:
        everyone = gateway.descendants()
        assert len(everyone) >= 4 + 2 * 6  # four zygotes, and six guards with a worker each
        gateway.process.send_signal(signal.SIGKILL)
        assert await all_gone(everyone)


async def test_workers_that_are_replaced_again_and_again_leave_nothing_open(
    tmp_path: Path, upstream: ScriptedUpstream
) -> None:
    """After twenty ends the gateway has no descriptor and no process more, and there is no zombie anywhere."""
    home = Home(tmp_path / "home")
    home.upstreams(chat={"base_url": upstream.url, "model": "test-model"})
    agents = [f"default/a{each}" for each in range(10)]
    for agent in agents:
        home.agent(agent.removeprefix("default/"))
    async with running_gateway(home) as gateway:
        await answers(gateway, upstream, agents[0])
        descriptors = psutil.Process(gateway.process.pid).num_fds
        before, count = descriptors(), len(gateway.descendants())
        for generation in (2, 3):
            for agent in agents:
                (await worker_of(gateway, agent)).kill()
            for agent in agents:
                await gateway.logged("worker.ready", agent=agent, generation=generation)
        await until(lambda: descriptors() <= before and len(gateway.descendants()) == count)
        assert [each for each in gateway.descendants() if each.status() == psutil.STATUS_ZOMBIE] == []
        scratch = list((home.root / ".agent-gateway" / "scratch").iterdir())
        assert len(scratch) == (0 if (await gateway.status(agents[0]))["walls"] == "full" else len(agents))


PROGRAM = """
import json, os, signal, socket, sys
from pathlib import Path

import anyio

from gateway.observe import logs
from gateway.runtime import zygote
from gateway.runtime.launcher import Launcher
from worker.plan import Plan
from worker.warden import children

async def unneeded(launcher, order):
    async with launcher.launched("ns", "fork", order):
        first = launcher._shared["ns"].zygote
        zygote.UNNEEDED_SECONDS = 0.2
        async with launcher.launched("ns", "fork", order):
            pass  # at news it looks at the clock anew
        await anyio.sleep(0.7)
        while_needed = first.over
    while first._popen.returncode is None:
        await anyio.sleep(0.02)
    zygote.UNNEEDED_SECONDS = 300
    async with launcher.launched("ns", "fork", order):
        return [while_needed, first.over, launcher._shared["ns"].zygote is first]

async def late(launcher, order):
    zygote.FORK_SECONDS = 0.5
    async with launcher.launched("ns", "fork", order) as process:
        first = launcher._shared["ns"].zygote
        [forker] = children(first._popen.pid)
        os.kill(forker, signal.SIGSTOP)
        try:
            async with launcher.launched("ns", "fork", order):
                said = ["it was started"]
        except zygote.LaunchError as error:
            said = [str(error)]
        os.kill(forker, signal.SIGCONT)
        zygote.FORK_SECONDS = 10
        async with launcher.launched("ns", "fork", order):
            return [*said, first.over, os.path.exists(f"/proc/{process.pid}")]

async def crowd(launcher, order):
    order.environ["LONG"] = "x" * 10_000
    started = []
    async def launch():
        async with launcher.launched("ns", "fork", order) as process:
            started.append(process.pid)
    async with anyio.create_task_group() as launches:
        for _ in range(40):
            launches.start_soon(launch)
    return started

logs.configure("error")

async def main():
    folder = Path(sys.argv[1])
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(folder / "s"))
    listener.listen()
    order = zygote.Order("agw:test", Plan(-1), str(folder), {}, listener.fileno(), os.open(os.devnull, os.O_WRONLY))
    async with anyio.create_task_group() as tasks:
        print(json.dumps(await globals()[sys.argv[2]](Launcher(folder, lambda _: Plan(-1), tasks), order)))
        tasks.cancel_scope.cancel()

anyio.run(main)
"""
"""A launcher in a process of its own, with less patience: at the end of a zygote it ends every child that it has."""


def launching(folder: Path, what: str) -> list[Any]:
    """What came of something that is done with a launcher."""
    command = [sys.executable, "-I", "-c", PROGRAM, str(folder), what]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return list(json.loads(done.stdout))


def test_a_zygote_that_nobody_has_needed_for_a_while_ends(tmp_path: Path) -> None:
    """Not while it has a worker, however long; who needs one later gets a new one."""
    assert launching(tmp_path, "unneeded") == [False, True, False]  # while needed, after; whether it was taken again


def test_a_zygote_that_answers_too_late_keeps_its_other_workers(tmp_path: Path) -> None:
    """Whoever did not get a worker in time is told so, and nobody else pays for it."""
    said_, over, alive = launching(tmp_path, "late")
    assert said_ == "the zygote of ns did not answer"
    assert (over, alive) == (False, True)


def test_many_workers_can_be_asked_for_at_once(tmp_path: Path) -> None:
    """Orders that do not fit into the socket wait for their turn."""
    assert len(set(launching(tmp_path, "crowd"))) == 40
