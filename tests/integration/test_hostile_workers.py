"""What agent code that attacks the wire, or kills its own process, can do to anybody else: nothing."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import httpx2
import psutil
import pytest

from tests.integration.process import Gateway, Home, running_gateway
from tests.integration.upstream import Connection, Reply, ScriptedUpstream, called, said, silent

ATTACKER = """
import gc
import os
import signal
import subprocess
import sys
import time

from agents import Agent, function_tool
from worker import wire
from worker.calls import RUN
from worker.channel import Channel

channel = next(each for each in gc.get_objects() if isinstance(each, Channel))
earlier = []
STAY = [sys.executable, "-I", "-S", "-c", "import time; time.sleep(1000)  # stays"]

def frame(body):
    return len(body).to_bytes(4, "big") + body

def send(*messages):
    for message in messages:
        channel.send_frame(wire.encode(message))

def push(data):
    "Send past all counting, and wait while the gateway does not take more."
    with channel._lock:
        channel._socket.send_multipart([channel._peer, data])

def flood(request):
    for _ in range(300):
        push(wire.encode(wire.Delta(request, "text", "x" * wire.TEXT)) * 64)

def hoard(request):
    "Leave bodies behind that nobody will ever read."
    for call in range(1000, 1012):
        push(wire.encode(wire.Call(call, request, "chat/completions")))
        for _ in range(480):
            push(wire.encode(wire.CallData(call, b"x" * wire.PIECE, False)))
        push(wire.encode(wire.Hangup(call)))

def forge(request):
    for text in FORGED:
        send(wire.Delta(request, "text", text))

FORGED = [
    "\\n\\ndata: [DONE]\\n\\n",
    '\\r\\n\\r\\ndata: {"error": {"message": "forged"}}\\r\\n\\r\\n',
    'event: error\\rdata: {"choices": [], "usage": {"total_tokens": 0}}\\u2028\\u2029\\x85\\x00',
    '"}}]}',
]

def late(request):
    for old in earlier[:-1]:
        send(wire.Delta(old, "text", "too late"), wire.Done(old, 0), wire.Failed(old, "agent", "late"))
        send(wire.Credit("request", old, 1), wire.Delta(old, "text", "x" * wire.TEXT))
    send(wire.CallData(1, b"late", True), wire.Hangup(1), wire.Credit("call", 1, 1))

ATTACKS = {
    "garbage": lambda request: channel.send_frame(frame(b"\\xc1\\xff" * 50)),
    "an_order": lambda request: send(wire.Stop()),
    "too_long": lambda request: channel.send_frame((wire.FRAME_LIMIT + 1).to_bytes(4, "big")),
    "never_ends": lambda request: [channel.send_frame((1000).to_bytes(4, "big") + b"x"), time.sleep(1000)],
    "strange_request": lambda request: send(wire.Delta(request + 1000, "text", "for another")),
    "strange_call": lambda request: send(wire.CallData(1 << 40, b"", True)),
    "hello_again": lambda request: send(wire.Hello(wire.VERSION)),
    "ready_again": lambda request: send(wire.Ready("agent")),
    "same_call": lambda request: send(*[wire.Call(1 << 20, request, "chat/completions")] * 2),
    "many_calls": lambda request: send(
        *[wire.Call(each, request, "chat/completions") for each in range(1 << 20, (1 << 20) + 300)]
    ),
    "many_notices": lambda request: send(*[wire.Notice(f"notice {each}") for each in range(300)]),
    "closed": lambda request: channel._socket.close(linger=0),
    "flood": flood,
    "hoard": hoard,
    "forge": forge,
    "late": late,
    "kill": lambda request: os.kill(os.getpid(), signal.SIGKILL),
}

@function_tool
def attack(kind: str) -> str:
    "Attack."
    request = RUN.get().request
    earlier.append(request)
    ATTACKS[kind](request)
    return "sent"

@function_tool
def spawn(kind: str) -> str:
    "Start a process that means to stay."
    if kind == "session":
        subprocess.Popen(STAY, start_new_session=True)
    else:
        script = f"import subprocess; [subprocess.Popen({STAY}, start_new_session=True) for _ in 'ab']"
        subprocess.check_call([sys.executable, "-c", script])
    return "started"

@function_tool
async def wait() -> str:
    "Wait until the client has gone."
    earlier.append(RUN.get().request)
    await __import__("asyncio").sleep(1000)
    return "waited"

agent = Agent(name="Attacker", tools=[attack, spawn, wait])
"""

ENDINGS = {
    "garbage": "not a message of this protocol",
    "an_order": "not a message of this protocol",
    "too_long": "over the limit",
    "never_ends": "did not end within",
    "strange_request": "which it was never given",
    "strange_call": "which it never opened",
    "hello_again": "a second Hello",
    "ready_again": "Ready for the second time",
    "same_call": "for the second time",
    "many_calls": "more than 256 model calls",
    "many_notices": "more than 200 notices",
    "closed": "",
}
"""For each attack that must end its worker, what the reason says."""
MEMORY = 60 << 20
"""Bytes by which the gateway may grow under an attack on its memory."""


@dataclass
class Outcome:
    """What came of one attack."""

    answer: httpx2.Response
    next_answer: httpx2.Response
    log: dict[str, Any]


def by_question(hold: anyio.Event) -> Reply:
    """Reply to concurrent requests by what they say: `attack KIND`, `stay`, or anything else."""

    async def reply(connection: Connection) -> None:
        last = connection.received.body["messages"][-1]
        if last["role"] == "user" and last["content"].startswith("attack "):
            await called("attack", {"kind": last["content"].removeprefix("attack ")})(connection)
        elif last["role"] == "user":
            await said("fine")(connection)
        else:
            await hold.wait()  # the answer after an attack never comes: the worker ends before

    return reply


def gone(processes: list[psutil.Process], seconds: float) -> list[psutil.Process]:
    """Wait for processes to end; return those that have not. One that only waits to be reaped has ended."""
    _, alive = psutil.wait_procs(processes, timeout=seconds)
    return [each for each in alive if each.is_running() and each.status() != psutil.STATUS_ZOMBIE]


async def all_gone(processes: list[psutil.Process], seconds: float = 10) -> bool:
    """Whether all of these processes end in time."""
    return not await anyio.to_thread.run_sync(gone, processes, seconds)


def sleeps(gateway: Gateway) -> list[psutil.Process]:
    """Return the processes below the gateway that an agent has started."""
    return [each for each in gateway.descendants() if "stays" in "".join(each.cmdline())]


async def works_again(gateway: Gateway, upstream: ScriptedUpstream, agent: str) -> None:
    """Ask an agent whose worker is gone, and see that it answers."""
    upstream.script(said("I am back."))
    answer = await gateway.ask(agent)
    assert answer.status_code == 200, answer.text
    assert answer.json()["choices"][0]["message"]["content"] == "I am back."


class Steady:
    """A stream of an agent that has nothing to do with an attack, held open over it."""

    def __init__(self, gateway: Gateway) -> None:
        self.hold = anyio.Event()
        self.words: list[str] = []
        self._gateway = gateway
        self._flowing = anyio.Event()
        self._ended = anyio.Event()

    def reply(self) -> Reply:
        """The upstream's reply to it."""
        return said("one ", "two ", "three", hold=self.hold)

    async def read(self) -> None:
        """Read the stream to its end."""
        stream = await self._gateway.client.chat.completions.create(
            model="default/steady", messages=[{"role": "user", "content": "Count"}], stream=True
        )
        async for chunk in stream:
            self.words.append(chunk.choices[0].delta.content or "")
            if "two " in self.words:
                self._flowing.set()
        self._ended.set()

    async def flowing(self) -> None:
        """Wait until its first words are there."""
        await self._flowing.wait()

    async def finish(self) -> str:
        """Let the rest come, and return all of it."""
        self.hold.set()
        await self._ended.wait()
        return "".join(self.words)


@asynccontextmanager
async def beside_a_stream(gateway: Gateway, upstream: ScriptedUpstream) -> AsyncIterator[None]:
    """Hold a stream of another agent open over the block, and see that it then completes whole."""
    steady = Steady(gateway)
    upstream.script(steady.reply())
    with anyio.fail_after(60):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(steady.read)
            await steady.flowing()
            yield
            assert await steady.finish() == "one two three"


@pytest.fixture(scope="module")
async def gateway(home: Home, upstream: ScriptedUpstream) -> AsyncIterator[Gateway]:
    """A gateway with agents that attack, one for each attack that ends its worker."""
    home.upstreams(chat={"base_url": upstream.url, "api_key": "sk-operator", "model": "test-model"})
    home.agent("Steady")
    for name in (*ENDINGS, "flooder", "hoarder", "victim", "late_victim", "suicidal"):
        home.agent(name, ATTACKER)
    async with running_gateway(home) as started:
        yield started


@pytest.fixture(scope="module")
async def outcomes(gateway: Gateway, upstream: ScriptedUpstream) -> dict[str, Outcome]:
    """All attacks that end a worker, side by side, with a stream of another agent open over them."""
    found: dict[str, Outcome] = {}
    pid = gateway.process.pid
    hold = anyio.Event()

    async def run(kind: str) -> None:
        answer = await gateway.ask(f"default/{kind}", f"attack {kind}")
        next_answer = await gateway.ask(f"default/{kind}", "Are you back?")
        log = await gateway.logged("worker.end", agent=f"default/{kind}")
        found[kind] = Outcome(answer, next_answer, log)

    async with beside_a_stream(gateway, upstream):
        upstream.script(*[by_question(hold)] * (4 * len(ENDINGS)))
        async with anyio.create_task_group() as tasks:
            for kind in ENDINGS:
                tasks.start_soon(run, kind)
    assert psutil.pid_exists(pid)
    return found


@pytest.mark.parametrize("kind", ENDINGS)
async def test_an_attack_on_the_wire_ends_its_own_worker_and_is_told(outcomes: dict[str, Outcome], kind: str) -> None:
    """The client gets a 503 at once, the log says what the worker did; another agent's stream went on through it."""
    outcome = outcomes[kind]
    error = outcome.answer.json()["error"]
    assert (outcome.answer.status_code, error["code"]) == (503, "worker_lost")
    assert outcome.log["kind"] == "died"
    assert ENDINGS[kind] in outcome.log["reason"]
    assert ENDINGS[kind] in error["message"]


@pytest.mark.parametrize("kind", ENDINGS)
async def test_after_an_attack_the_next_request_works(outcomes: dict[str, Outcome], kind: str) -> None:
    """A worker that attacked is replaced, and whoever asks next waits for the new one and gets an answer."""
    answer = outcomes[kind].next_answer
    assert answer.status_code == 200, answer.text
    assert answer.json()["choices"][0]["message"]["content"] == "fine"


async def test_the_gateway_found_no_fault_of_its_own(outcomes: dict[str, Outcome], gateway: Gateway) -> None:
    """No attack made the gateway meet an exception that nobody expected, or write anything but log lines."""
    assert outcomes
    assert [line for line in gateway.log if line["event"] == "gateway.bug"] == []
    assert gateway.errors == []


@pytest.mark.parametrize(("agent", "kind"), [("flooder", "flood"), ("hoarder", "hoard")])
async def test_an_attack_on_memory_does_not_make_the_gateway_grow(
    gateway: Gateway, upstream: ScriptedUpstream, agent: str, kind: str
) -> None:
    """Hundreds of megabytes of text, or of bodies of model calls hung up on, are never held by the gateway."""
    most = before = gateway.rss()
    over = anyio.Event()

    async def watch() -> None:
        nonlocal most
        while not over.is_set():
            most = max(most, gateway.rss())
            with anyio.move_on_after(0.02):
                await over.wait()

    async with beside_a_stream(gateway, upstream), anyio.create_task_group() as tasks:
        tasks.start_soon(watch)
        upstream.script(called("attack", {"kind": kind}), said("survived"))
        answer = await gateway.ask(agent)
        over.set()
    assert (most - before) >> 20 <= MEMORY >> 20
    if kind == "flood":
        # A gateway that keeps up gives credit, and ends it at the limit of an answer; else the window does.
        assert answer.json()["error"]["code"] in ("worker_lost", "agent_failed")
        assert any(each in answer.json()["error"]["message"] for each in ("window", "million characters"))
    await works_again(gateway, upstream, agent)


async def test_text_that_looks_like_events_is_text(gateway: Gateway, upstream: ScriptedUpstream) -> None:
    """Line breaks, JSON and `data: [DONE]` in what an agent says arrive as its words, in events that we made."""
    upstream.script(called("attack", {"kind": "forge"}), said("the end"))
    question = {"model": "victim", "stream": True, "messages": [{"role": "user", "content": "Hi"}]}
    async with gateway.http() as client:
        raw = (await client.post("/v1/chat/completions", json=question)).content
    events = raw.split(b"\n\n")
    assert events[-2:] == [b"data: [DONE]", b""]
    assert b"\r" not in raw
    chunks = [json.loads(event.removeprefix(b"data: ")) for event in events[:-2]]
    assert all(event.startswith(b"data: ") and b"\n" not in event for event in events[:-1])
    assert all(chunk["object"] == "chat.completion.chunk" and len(chunk["choices"]) == 1 for chunk in chunks)
    said_text = "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks)
    assert said_text.endswith("the end")
    for forged in ("\n\ndata: [DONE]\n\n", '\r\n\r\ndata: {"error"', "\u2028\u2029\x85\x00", '"}}]}'):
        assert forged in said_text


async def test_messages_of_a_request_that_has_just_ended_are_dropped(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    """A worker that still speaks of closed requests and calls is heard by nobody, and lives."""
    pid = (await gateway.status("default/victim"))["pid"]
    waiting = anyio.Event()

    async def reply(connection: Connection) -> None:
        await called("wait", {}, before="Let me see.")(connection)
        waiting.set()

    upstream.script(reply)
    stream = await gateway.client.chat.completions.create(
        model="victim", messages=[{"role": "user", "content": "Hi"}], stream=True
    )
    async for chunk in stream:
        if chunk.choices[0].delta.content:
            break
    await waiting.wait()
    await stream.close()
    upstream.script(called("attack", {"kind": "late"}), said("in time"))
    answer = (await gateway.ask("victim")).json()
    assert answer["choices"][0]["message"]["content"] == "in time"
    assert (await gateway.status("default/victim"))["pid"] == pid


async def kill(gateway: Gateway, agent: str) -> None:
    """Kill the worker of an agent, and nothing else."""
    os.kill((await gateway.status(f"default/{agent}"))["pid"], signal.SIGKILL)


async def test_a_worker_killed_before_its_first_word_is_a_503_and_is_replaced(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    """The client may try again at once: another agent's stream lost nothing, and the next request works."""
    asked = anyio.Event()

    async def reply(connection: Connection) -> None:
        asked.set()
        await silent(connection)

    answers: list[httpx2.Response] = []

    async def ask() -> None:
        answers.append(await gateway.ask("late_victim"))

    async with beside_a_stream(gateway, upstream):
        upstream.script(reply)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask)
            await asked.wait()
            await kill(gateway, "late_victim")
        [answer] = answers
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "worker_lost")
        assert "SIGKILL" in answer.json()["error"]["message"]
        assert answer.headers["retry-after"] == "1"
        line = await gateway.logged("worker.end", agent="default/late_victim")
        assert "SIGKILL" in line["reason"]
        await works_again(gateway, upstream, "late_victim")


async def test_a_worker_killed_in_mid_stream_is_an_error_event_and_is_replaced(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    """What was said before arrives, then an error and no `[DONE]`; another stream loses nothing; the next works."""
    question = {"model": "victim", "stream": True, "messages": [{"role": "user", "content": "Hi"}]}
    async with beside_a_stream(gateway, upstream):
        upstream.script(said("half ", "never", hold=anyio.Event()))
        lines = []
        async with gateway.http() as client, client.stream("POST", "/v1/chat/completions", json=question) as answer:
            async for line in answer.aiter_lines():
                lines.append(line)
                if "half " in line:
                    await kill(gateway, "victim")
        error = json.loads([line for line in lines if line][-1].removeprefix("data: "))["error"]
        assert error["code"] == "worker_lost"
        assert "SIGKILL" in error["message"]
        assert "data: [DONE]" not in lines
        await works_again(gateway, upstream, "victim")


async def test_a_worker_that_kills_itself_again_and_again_has_to_pause(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    """The first crash is forgiven at once; after more, requests get 503, when to come back, and why; then it is up."""
    for generation in (1, 2, 3):
        upstream.script(called("attack", {"kind": "kill"}))
        with anyio.fail_after(20):
            while (await gateway.ask("suicidal")).json()["error"]["code"] != "worker_lost":
                await gateway.logged("worker.ready", agent="default/suicidal", generation=generation)
        await gateway.logged("worker.end", agent="default/suicidal", generation=generation)
    answer = await gateway.ask("suicidal")
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (503, "agent_unavailable")
    assert "BACKOFF" in error["message"]
    assert "SIGKILL" in error["message"]
    assert int(answer.headers["retry-after"]) > 0
    async with gateway.http() as client:
        listed = (await client.get("/v1/models")).json()["data"]
    assert "default/suicidal" in {each["id"] for each in listed}, "it has worked, and will again"
    await gateway.logged("worker.ready", agent="default/suicidal", generation=4)
    await works_again(gateway, upstream, "suicidal")


async def spawned(gateway: Gateway, upstream: ScriptedUpstream, agent: str, kind: str) -> list[psutil.Process]:
    """Have an agent start processes that mean to stay, and return them."""
    upstream.script(called("spawn", {"kind": kind}), said("Started."))
    assert (await gateway.ask(agent)).status_code == 200
    found = sleeps(gateway)
    assert len(found) == {"session": 1, "orphan": 2}[kind]
    return found


@pytest.mark.parametrize("kind", ["session", "orphan"])
async def test_what_a_worker_started_ends_with_it(gateway: Gateway, upstream: ScriptedUpstream, kind: str) -> None:
    """No process of a killed worker is left, be it in a session of its own or orphaned on purpose."""
    agent = {"session": "flooder", "orphan": "late_victim"}[kind]
    processes = await spawned(gateway, upstream, agent, kind)
    await kill(gateway, agent)
    assert await all_gone(processes)


async def test_what_a_worker_started_ends_even_where_its_warden_was_killed(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    """The gateway itself adopts and ends what is left when the process between is gone."""
    processes = await spawned(gateway, upstream, "victim", "orphan")
    worker = psutil.Process((await gateway.status("default/victim"))["pid"])
    warden = worker.parent()
    assert warden is not None
    warden.kill()
    assert await all_gone([worker, warden, *processes])


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGTERM])
async def test_nothing_is_left_when_the_gateway_ends(
    tmp_path: Path, upstream: ScriptedUpstream, signum: signal.Signals
) -> None:
    """Killed or asked to stop, a gateway leaves no process and no socket behind."""
    home = Home(tmp_path / "home")
    home.upstreams(chat={"base_url": upstream.url, "api_key": "sk-operator", "model": "test-model"})
    home.agent("Spawner", ATTACKER)
    async with running_gateway(home) as gateway:
        await spawned(gateway, upstream, "spawner", "orphan")
        descendants = gateway.descendants()
        assert len(descendants) == 6  # a warden, a zygote, a guard, its worker, what that started
        gateway.process.send_signal(signum)
        with anyio.fail_after(20):
            await gateway.process.wait()
        assert await all_gone(descendants)
        assert list((home.root / ".agent-gateway" / "run").iterdir()) == []


async def test_a_second_gateway_on_the_same_home_is_refused(gateway: Gateway) -> None:
    """It exits with 2 and says which folder is taken and what to do, and the first goes on."""
    command = [str(Path(sys.executable).with_name("agent-gateway")), "serve", "--port", "0"]
    environ = os.environ | {"GATEWAY_HOME": str(gateway.home.root)}
    second = await anyio.run_process(command, env=environ, check=False, stderr=subprocess.PIPE)
    assert second.returncode == 2
    text = second.stderr.decode()
    assert f"a gateway on {gateway.url} already serves this home" in text
    assert "Traceback" not in text
    assert (await gateway.status("default/steady"))["state"] == "READY"
