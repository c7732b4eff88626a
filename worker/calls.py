"""One model call over the channel, awaited on the loop or waited for in any thread; runs in the worker."""

import asyncio
import contextlib
import itertools
import threading
from collections import deque
from collections.abc import AsyncIterator, Iterator
from contextvars import ContextVar

from worker import wire
from worker.channel import CallMessage, Channel

SLICE = 0.02
"""Seconds that a waiting thread leaves the traffic to the loop before it moves it itself."""


class CallFailed(Exception):
    """The gateway could not finish a model call; the message says why."""


class RunScope:
    """What is known, anywhere below a run, of the run."""

    def __init__(self, request: int) -> None:
        self.request = request
        self.front_call = 0
        """The last model call that was a turn of the run itself."""
        self.heard = asyncio.Event()
        """Set while the client keeps up; model calls of the run pause while it is not."""
        self.heard.set()


RUN: ContextVar[RunScope | None] = ContextVar("run", default=None)
DEPTH: ContextVar[int] = ContextVar("depth", default=0)
"""How many runs of the SDK are around this code: 1 in a run's own turns, 2 in an agent used as a tool."""


class Calls:
    """Opens model calls on one channel."""

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self._ids = itertools.count(1)
        self._opening = threading.Lock()

    def open(self, path: wire.Path, host: str = "") -> "Call":
        """Announce a call; its body is sent with `Call.send` or `Call.asend`."""
        if self.channel.loop is None:
            raise CallFailed(
                "a model was called while the module was being imported: the gateway brokers model calls"
                " only within a run, so call the model inside the agent, a tool or a factory"
            )
        scope = RUN.get()
        front = scope is not None and not host and DEPTH.get() == 1
        with self._opening:  # ids must reach the gateway in their order, whatever threads open calls
            call = Call(self.channel, next(self._ids), scope)
            self.channel.calls[call.id] = call.take
            self.channel.send(wire.Call(call.id, scope.request if scope else 0, path, host[:255], front))
        if scope is not None and front:
            scope.front_call = call.id
        return call


class Call:
    """The worker's side of one call: a body out, a head and bytes in."""

    def __init__(self, channel: Channel, id_: int, scope: RunScope | None) -> None:
        self.id = id_
        self._channel = channel
        self._scope = scope
        self._outflow = wire.Outflow()
        self._inflow = wire.Inflow()
        self._head: wire.Head | None = None
        self._data: deque[tuple[bytes, int]] = deque()
        self._end: wire.End | None = None
        self._news = threading.Event()
        self._waiter: asyncio.Future[None] | None = None

    def take(self, message: CallMessage, size: int) -> None:
        """Take a message of this call, in whatever thread it arrives."""
        match message:
            case wire.Head():
                self._head = message
            case wire.Data():
                self._data.append((message.data, size))
            case wire.End():
                self._end = message
                self._channel.calls.pop(self.id, None)
            case wire.Credit():
                self._outflow.credit(message.bytes)
        self._news.set()
        if (waiter := self._waiter) is not None:
            if self._channel.on_loop() and waiter.get_loop() is self._channel.loop:
                _wake(waiter)
            else:
                with contextlib.suppress(RuntimeError):  # the loop of whoever waited has ended
                    waiter.get_loop().call_soon_threadsafe(_wake, waiter)

    async def asend(self, body: bytes) -> wire.Head:
        """Send the body and await the head of the answer."""
        for data, last in wire.pieces(body):
            frame = wire.encode(wire.CallData(self.id, data, last))
            while not self._end and not self._outflow.take(len(frame)):
                await self._anews()
            self._channel.send_frame(frame)
        while not self._head:
            self._raise_end()
            await self._anews()
        return self._head

    def send(self, body: bytes) -> wire.Head:
        """Send the body and wait for the head of the answer."""
        for data, last in wire.pieces(body):
            frame = wire.encode(wire.CallData(self.id, data, last))
            while not self._end and not self._outflow.take(len(frame)):
                self._wait()
            self._channel.send_frame(frame)
        while not self._head:
            self._raise_end()
            self._wait()
        return self._head

    async def achunks(self) -> AsyncIterator[bytes]:
        """Yield the bytes of the answer as they come, while the run's client keeps up."""
        while True:
            while self._data:
                if self._scope is not None and self._channel.on_loop():
                    await self._scope.heard.wait()
                yield self._next()
            if self._ended():
                return
            await self._anews()

    def chunks(self) -> Iterator[bytes]:
        """Yield the bytes of the answer as they come."""
        while True:
            while self._data:
                yield self._next()
            if self._ended():
                return
            self._wait()

    def close(self) -> None:
        """Hang up, unless the answer has ended."""
        if self._channel.calls.pop(self.id, None) and not self._end:
            self._channel.send(wire.Hangup(self.id))

    def _next(self) -> bytes:
        data, size = self._data.popleft()
        if credit := self._inflow.dealt(size):
            self._channel.send(wire.Credit("call", self.id, credit))
        return data

    def _ended(self) -> bool:
        if self._end is None or self._data:
            return False
        self._raise_end()
        return True

    def _raise_end(self) -> None:
        if self._end is not None and (self._end.error or not self._head):
            raise CallFailed(self._end.error or "the answer ended before it began")

    async def _anews(self) -> None:
        if self._news.is_set():
            self._news.clear()
            return
        self._waiter = waiter = asyncio.get_running_loop().create_future()
        try:
            while not self._news.is_set():
                if self._channel.on_loop():
                    await waiter
                    break
                # A loop in a thread, below a tool: the main one may be blocked until this one is done.
                await asyncio.wait([waiter], timeout=SLICE)
                if not waiter.done():
                    self._channel.pump(0)
        finally:
            self._waiter = None
            self._news.clear()

    def _wait(self) -> None:
        on_loop = self._channel.on_loop()
        while on_loop or not self._news.wait(SLICE):
            self._channel.pump(SLICE)
            if self._news.is_set():
                break
        self._news.clear()


def _wake(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)
