"""Promises of the worker's end of the wire, over a real socket."""

import socket
from collections.abc import Iterator
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest
import zmq

from worker import wire
from worker.channel import Channel


class Peer:
    """The gateway's end of a channel."""

    def __init__(self, path: Path) -> None:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(path))
            listener.listen(1)
            self.channel = Channel(listener.detach())
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.STREAM)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.connect(f"ipc://{path}")
        self._id = self._socket.recv_multipart()[0]

    def send(self, message: wire.ToWorker) -> None:
        """Send a message."""
        self._socket.send_multipart([self._id, wire.encode(message)])

    def close(self) -> None:
        """Close both ends."""
        self.channel.detach()
        self._socket.close()
        self._context.term()


@pytest.fixture
def peer(tmp_path: Path) -> Iterator[Peer]:
    """A channel with somebody at its other end."""
    made = Peer(tmp_path / "s")
    yield made
    made.close()


async def test_messages_are_handled_in_their_order_whoever_drains_them(peer: Peer) -> None:
    """What a blocked loop's own waiting drains comes before what the loop drains after it."""
    handled: list[str] = []
    both = anyio.Event()

    def handle(message: wire.ToWorker, _: int) -> None:
        handled.append(type(message).__name__)
        if len(handled) == 2:
            both.set()

    peer.channel.attach(handle)
    await anyio.lowlevel.checkpoint()
    peer.channel.send(wire.Notice("a turn of the loop is due"))
    peer.send(wire.Run(1))
    for _ in range(3):
        peer.channel.pump(0.1)  # as a sync client does that blocks the loop
    peer.send(wire.RunData(1, b"{}", True))
    with anyio.fail_after(5):
        await both.wait()
    assert handled == ["Run", "RunData"]


async def test_a_message_of_a_call_that_has_been_closed_is_dropped_alone(peer: Peer) -> None:
    """What came with it is handled."""
    handled = anyio.Event()
    peer.channel.attach(lambda message, _: handled.set())
    peer.send(wire.End(7, "nobody has this call"))
    peer.send(wire.Cancel(1))
    with anyio.fail_after(5):
        await handled.wait()
