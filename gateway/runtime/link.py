"""The gateway's end of one worker's socket: ZeroMQ STREAM, drained by the event loop, hostile until decoded."""

import asyncio
import os
import socket
from collections.abc import Callable
from pathlib import Path

import zmq

from worker import wire

TURN, MESSAGES = 64, 500
"""Parts (of up to 8 KiB), and messages, that one worker may have handled in a turn, before others have theirs."""
FRAME_SECONDS = 10.0
"""How long a frame may take from its first byte to its last."""
UNREAD = 64 << 20
"""Bytes that may wait for a worker which does not read; credit keeps an honest one far below."""
FOR_GOOD = 0x7FFFFFFF
"""A pause before a reconnect that never ends: with -1, ZeroMQ drops the notice of a lost peer with its pipe."""


class Listener:
    """A listening Unix socket of one worker, made by the gateway and handed over as a descriptor."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder = os.open(folder, os.O_PATH | os.O_DIRECTORY)
        self.address = f"/proc/self/fd/{self._folder}/{name}"  # short, however deep the folder lies
        self.socket = socket.socket(socket.AF_UNIX)
        try:
            self.socket.bind(self.address)
            self.socket.listen(1)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close our copy, and leave no file behind."""
        self.socket.close()
        if self._folder >= 0:
            try:
                os.unlink(self.address)
            except FileNotFoundError:
                pass
            finally:
                os.close(self._folder)
                self._folder = -1


class Link:
    """Frames to and from one worker.

    `take` gets each message with the bytes its frame took. One of `closed` and `broken` is called once: when the worker
    has closed the connection, or with the reason when it has broken the protocol. Nothing is taken after that.
    """

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        address: str,
        take: Callable[[wire.ToGateway, int], None],
        closed: Callable[[], None],
        broken: Callable[[str], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._take = take
        self._closed = closed
        self._broken = broken
        self._frames = wire.gateway_frames()
        self._peer = b""
        self._out: list[bytes] = []
        self._waiting = 0
        self._scheduled = False
        self._open = True
        self._late: asyncio.TimerHandle | None = None
        self._socket = context.socket(zmq.STREAM)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt(zmq.SNDHWM, 16)  # batches, not bytes: what is not taken waits here, and is counted
        self._socket.setsockopt(zmq.RECONNECT_IVL, FOR_GOOD)
        self._socket.connect(f"ipc://{address}")
        self._fd = self._socket.fileno()
        self._loop.add_reader(self._fd, self._turn)
        self._schedule()

    def send(self, message: wire.ToWorker) -> int:
        """Send a message with all others of this turn of the loop; return the bytes of its frame."""
        frame = wire.encode(message)
        self.send_frame(frame)
        return len(frame)

    def send_frame(self, frame: bytes) -> None:
        """Send a frame that is encoded already."""
        if self._open:
            self._out.append(frame)
            self._waiting += len(frame)
            self._schedule()

    def close(self) -> None:
        """Close the socket; nothing is taken from it any more."""
        if self._open:
            self._open = False
            self._loop.remove_reader(self._fd)
            self._socket.close()
        if self._late:
            self._late.cancel()
            self._late = None

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        # The descriptor is edge-triggered, and a send may eat the edge: look at the socket after each send.
        self._scheduled = False
        if not self._open:
            return
        try:
            self._drain()
            self._flush()
        except wire.WireError as error:
            self.close()
            self._broken(str(error))
        except (zmq.ZMQError, ConnectionError):
            self.close()
            self._closed()

    def _drain(self) -> None:
        before = self._frames.whole
        for _ in range(TURN):
            if self._frames.whole - before > MESSAGES:
                self._schedule()
                break
            try:
                peer, data = self._socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                break
            if data:
                for message, size in self._frames.feed(data):
                    self._take(message, size)
                    if not self._open:
                        return
            elif self._peer:
                raise ConnectionResetError("end of stream")
            else:
                self._peer = peer
        else:
            self._schedule()
        self._watch_partial()

    def _flush(self) -> None:
        if not self._out or not self._peer:
            return
        if self._waiting > UNREAD:
            raise wire.WireError(f"it lets {self._waiting} bytes wait")
        batch = b"".join(self._out)
        self._out.clear()
        try:
            self._socket.send_multipart([self._peer, batch], zmq.NOBLOCK)
        except zmq.Again:
            self._out.append(batch)
            self._loop.call_later(0.005, self._schedule)
            return
        self._waiting = 0
        if int(self._socket.getsockopt(zmq.EVENTS)) & zmq.POLLIN:
            self._schedule()

    def _watch_partial(self) -> None:
        if self._frames.partial and self._late is None:
            self._late = self._loop.call_later(FRAME_SECONDS, self._check_partial, self._frames.whole)

    def _check_partial(self, whole: int) -> None:
        self._late = None
        if self._frames.partial and self._frames.whole == whole:
            self.close()
            self._broken(f"a frame did not end within {FRAME_SECONDS:.0f} s")
        elif self._open:
            self._watch_partial()
