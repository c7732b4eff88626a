"""The worker's end of ZeroMQ: one STREAM socket, drained by the agent's event loop.

A thread that waits for the gateway while that loop is blocked (a sync client called in an async tool) moves the
traffic itself with `pump`, so that a blocked loop never waits for itself. Every use of the socket is under one lock.
"""

import asyncio
import contextlib
import contextvars
import select
import threading
import time
from collections import deque
from collections.abc import Callable

import zmq

from worker import wire


class Lost(Exception):
    """The gateway is gone."""


CallMessage = wire.Head | wire.Data | wire.End | wire.Credit
Handler = Callable[[wire.ToWorker, int], None]
"""Takes a message and the bytes that its frame took."""


class Channel:
    """Frames in and out; messages of calls go to their call, all others to one handler on the loop."""

    def __init__(self, fd: int) -> None:
        self._context = zmq.Context(io_threads=1)
        self._socket = self._context.socket(zmq.STREAM)
        self._socket.setsockopt(zmq.LINGER, 500)
        self._socket.setsockopt(zmq.USE_FD, fd)
        self._socket.bind("ipc:///agent-gateway")  # the descriptor is bound already: the name is for ZeroMQ alone
        self._peer = b""
        self._frames = wire.worker_frames()
        self._out: list[bytes] = []
        self._lock = threading.Lock()
        self.loop: asyncio.AbstractEventLoop | None = None
        """The loop that runs the agent; none while the module is imported."""
        self._context_of_loop = contextvars.copy_context()
        self._flushing = False
        self._inbox: deque[tuple[wire.ToWorker, int]] = deque()
        self._handler: Handler | None = None
        self.calls: dict[int, Callable[[CallMessage, int], None]] = {}
        """Where the messages of each open call go: called in whatever thread moves the traffic, under its lock."""

    def receive(self, seconds: float) -> wire.ToWorker:
        """Wait for one message, before there is a loop."""
        deadline = time.monotonic() + seconds
        while not self._inbox:
            if time.monotonic() > deadline:
                raise Lost(f"no word from the gateway in {seconds:.0f} s")
            self.pump(0.1)
        return self._inbox.popleft()[0]

    def attach(self, handler: Handler) -> None:
        """From now on the running loop drains the socket, and messages go to this handler on it."""
        self._context_of_loop = contextvars.copy_context()
        self._handler = handler
        self.loop = asyncio.get_running_loop()
        self.loop.add_reader(self._socket.fileno(), self._turn)
        self._schedule()

    def detach(self) -> None:
        """Give what is still to be sent a moment to leave, and close."""
        if self.loop is not None:
            self.loop.remove_reader(self._socket.fileno())
        with self._lock:
            self._flush()
            self._socket.close()
        self._context.term()

    def send(self, message: wire.ToGateway) -> None:
        """Send a message that needs no credit."""
        self.send_frame(wire.encode(message))

    def send_frame(self, frame: bytes) -> None:
        """Send a frame; all that one turn of the loop sends leaves together."""
        on_loop = self.on_loop()
        with self._lock:
            self._out.append(frame)
            if not on_loop:
                self._flush()
        if on_loop:
            self._schedule()
        else:
            self._look_again()

    def pump(self, seconds: float) -> None:
        """Move traffic from this thread, waiting at most so long for something to come."""
        if not self._move():
            select.select([self._socket.fileno()], [], [], seconds)
            self._move()
        self._look_again()

    def on_loop(self) -> bool:
        """Whether this is the thread of the loop, and the loop runs."""
        try:
            return asyncio.get_running_loop() is self.loop
        except RuntimeError:
            return False

    def _turn(self) -> None:
        # The descriptor is edge-triggered, and a send may eat the edge: look at the socket on every turn.
        self._flushing = False
        try:
            moved = self._move()
        except Lost:
            moved = False
            self._inbox.append((wire.Stop(), 0))
        if moved:
            self._schedule()
        while self._inbox and self._handler:  # whoever drained it, in the order in which it came
            self._handler(*self._inbox.popleft())

    def _schedule(self) -> None:
        if self.loop is not None and not self._flushing:
            self._flushing = True
            self.loop.call_soon(self._turn, context=self._context_of_loop)

    def _look_again(self) -> None:
        if self.loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop has ended: nobody is left to look
                self.loop.call_soon_threadsafe(self._turn, context=self._context_of_loop)

    def _move(self) -> bool:
        """Send what waits, and take what came; whether anything did. What came is delivered in its order."""
        with self._lock:
            self._flush()
            return self._drain()

    def _flush(self) -> None:
        if not self._out or not self._peer:
            return
        batch, self._out = b"".join(self._out), []
        try:
            self._socket.send_multipart([self._peer, batch], zmq.NOBLOCK)
        except zmq.Again:
            self._out.insert(0, batch)
            if self.loop is not None:
                self.loop.call_soon_threadsafe(self._retry, context=self._context_of_loop)
        except zmq.ZMQError as error:
            raise Lost(str(error)) from error

    def _retry(self) -> None:
        if self.loop is not None:
            self.loop.call_later(0.005, self._turn, context=self._context_of_loop)

    def _drain(self) -> bool:
        moved = False
        for _ in range(256):
            try:
                peer, data = self._socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                break
            moved = True
            if data:
                for message, size in self._frames.feed(data):
                    self._deliver(message, size)
            elif self._peer:
                raise Lost("the gateway closed the connection")
            else:
                self._peer = peer
                self._flush()
        return moved

    def _deliver(self, message: wire.ToWorker, size: int) -> None:
        if isinstance(message, wire.Head | wire.Data | wire.End):
            call = message.call
        elif isinstance(message, wire.Credit) and message.stream == "call":
            call = message.id
        else:
            self._inbox.append((message, size))
            return
        if take := self.calls.get(call):  # else the call has just been closed
            take(message, size)
