"""A hostile agent floods the wire with messages: another agent's stream goes on, and the gateway stays small."""

import json
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest

from tests.attacks import rows
from tests.attacks.raid import content, obey
from tests.integration.process import Gateway, Home, running_gateway
from tests.integration.upstream import HEAD, Connection, Reply, ScriptedUpstream, _chunk, _finish

pytestmark = pytest.mark.slow
SECONDS = 0.6
"""How long a flood lasts, where the gateway lets it."""
GROWTH_MB = 60
SLOWEST_GAP = 1.0
"""Seconds that another agent's stream may wait for its next word, which is due every 20 ms."""
FLOODER = """
import gc
import json
import time

from agents import Agent, function_tool
from worker import wire
from worker.calls import RUN
from worker.channel import Channel

channel = next(each for each in gc.get_objects() if isinstance(each, Channel))
request = 0
TEXT, PIECE = "x" * wire.TEXT, b"x" * wire.PIECE
calls = iter(range(1 << 20, 1 << 40))


def call_and_hangup(number):
    return [wire.Call(number, request, "chat/completions"), wire.Hangup(number)]


KINDS = {
    "Delta": lambda: [wire.Delta(request, "text", TEXT)] * 8,
    "small Delta": lambda: [wire.Delta(request, "text", "x")] * 200,
    "Delta of another": lambda: [wire.Delta(request - 1, "text", TEXT)] * 8,
    "Notice": lambda: [wire.Notice("x" * 4096)] * 50,
    "Call": lambda: [wire.Call(next(calls), request, "chat/completions") for _ in range(100)],
    "Call and Hangup": lambda: call_and_hangup(next(calls)),
    "CallData": lambda: [wire.CallData(FIRST, PIECE, False)] * 8,
    "Hangup": lambda: [wire.Hangup(FIRST)] * 200,
    "Credit": lambda: [wire.Credit("request", request, wire.WINDOW)] * 200,
    "Done": lambda: [wire.Done(request, 0)] * 200,
    "Failed": lambda: [wire.Failed(request, "agent", "x" * 4096)] * 50,
    "Ready": lambda: [wire.Ready("agent")] * 200,
    "Hello": lambda: [wire.Hello(wire.VERSION)] * 200,
}
FIRST = 1 << 19


def push(data):
    "Send past all counting, and wait while the gateway does not take more."
    with channel._lock:
        channel._socket.send_multipart([channel._peer, data])


@function_tool
def flood(kind: str, seconds: float) -> str:
    "Flood the gateway with messages of a kind."
    global request
    request = RUN.get().request
    begun, many = time.monotonic(), 0
    if kind == "CallData":
        push(wire.encode(wire.Call(FIRST, request, "chat/completions")))
    if kind == "endless frame":
        push(wire.FRAME_LIMIT.to_bytes(4, "big"))
    while time.monotonic() < begun + seconds:
        if kind == "endless frame":
            push(b"x" * 4096)
            many += 1
            continue
        messages = KINDS[kind]()
        push(b"".join(wire.encode(each) for each in messages))
        many += len(messages)
    return json.dumps(many)


agent = Agent(name="Flooder", tools=[flood])
"""
KINDS = (
    "Delta",
    "small Delta",
    "Delta of another",
    "Notice",
    "Call",
    "Call and Hangup",
    "CallData",
    "Hangup",
    "Credit",
    "Done",
    "Failed",
    "Ready",
    "Hello",
    "endless frame",
)


def agent(kind: str) -> str:
    """Return the agent that floods with messages of a kind."""
    return kind.lower().replace(" ", "-")


def counting(stop: anyio.Event) -> Reply:
    """As a model: a word every 20 ms until the flood is over; a flooder gets what it asks for."""

    async def reply(connection: Connection) -> None:
        if "Count" not in json.dumps(connection.received.body["messages"]):
            await obey(connection)
            return
        words = (str(number) for number in range(10**6) if not stop.is_set())
        await said_while(connection, words)

    return reply


async def said_while(connection: Connection, words: Any) -> None:
    """Say words for as long as there are any."""
    await connection.raw(HEAD)
    for word in words:
        await connection.event(_chunk({"role": "assistant", "content": f"{word} "}))
        await anyio.sleep(0.02)
    await _finish(connection, "stop")


@pytest.fixture(scope="module")
async def gateway(upstream: ScriptedUpstream) -> AsyncIterator[Gateway]:
    """A gateway with a flooder for each kind of message."""
    with tempfile.TemporaryDirectory(prefix="agw-", dir="/tmp") as folder:
        home = Home(Path(folder) / "home")
        home.upstreams(chat={"base_url": upstream.url, "api_key": "sk-operator", "model": "test-model"})
        home.agent("steady")
        for kind in KINDS:
            home.agent(agent(kind), FLOODER)
        async with running_gateway(home) as started:
            yield started


def number_in(answer: httpx2.Response) -> str:
    """Return how many messages a flood had, where its run came to that."""
    try:
        return str(int(content(answer)))
    except (AssertionError, TypeError, ValueError):
        return "-"


class Beside:
    """What is measured while a flood runs: the gateway's memory, and the gaps in another agent's stream."""

    def __init__(self, gateway: Gateway) -> None:
        self.before = self.most = gateway.rss()
        self.gap = 0.0
        self.words: list[str] = []
        self.flowing = anyio.Event()
        self._gateway = gateway

    async def watch(self) -> None:
        """Look at the gateway's memory until cancelled."""
        while True:
            self.most = max(self.most, self._gateway.rss())
            await anyio.sleep(0.02)

    async def read(self) -> None:
        """Read another agent's stream to its end."""
        stream = await self._gateway.client.chat.completions.create(
            model="steady", messages=[{"role": "user", "content": "Count"}], stream=True
        )
        last = 0.0
        async for chunk in stream:
            if text := chunk.choices[0].delta.content:
                now = time.monotonic()
                self.gap = max(self.gap, now - last if last else 0)
                last = now
                self.words += text.split()
                if len(self.words) == 5:
                    self.flowing.set()


@pytest.mark.parametrize("kind", ["none", *KINDS])
async def test_a_flood_harms_nobody_else(gateway: Gateway, upstream: ScriptedUpstream, kind: str) -> None:
    """The gateway grows by little, another agent's stream loses nothing and hardly waits."""
    stop, ended = anyio.Event(), "goes on"
    upstream.script(*[counting(stop)] * 1000)
    since = len(gateway.log)
    beside = Beside(gateway)
    many = "0"
    with anyio.fail_after(60):
        async with anyio.create_task_group() as watching:
            watching.start_soon(beside.watch)
            async with anyio.create_task_group() as reading:
                reading.start_soon(beside.read)
                await beside.flowing.wait()
                if kind == "none":
                    await anyio.sleep(SECONDS)
                else:
                    call = {"tool": "flood", "arguments": {"kind": kind, "seconds": SECONDS}}
                    answer = await gateway.ask(agent(kind), json.dumps(call))
                    many = number_in(answer)
                await anyio.sleep(0.2)
                stop.set()
            watching.cancel_scope.cancel()
    if ends := [line["reason"] for line in gateway.log[since:] if line["event"] == "worker.end"]:
        ended = ends[0]
    grown = (beside.most - beside.before) / 2**20
    rows.FLOODS[kind] = (f"{grown:.1f} MB", f"{beside.gap * 1000:.0f} ms", many, ended)
    assert beside.words == [str(number) for number in range(len(beside.words))]
    assert grown < GROWTH_MB
    assert beside.gap < SLOWEST_GAP
    assert [line for line in gateway.log if line["event"] == "gateway.bug"] == []
