"""One model call of a worker, as the broker meets it: a body in, an answer out, and what was learned on the way."""

from collections.abc import Callable

import anyio

from gateway.errors import GatewayError
from gateway.observe.usage import Usage
from worker import wire

BODY_LIMIT = 32 << 20
"""Bytes of a call's body."""


class Exchange:
    """The gateway's side of one call."""

    def __init__(
        self,
        call: wire.Call,
        send: Callable[[bytes], None],
        *,
        agent: str,
        request_id: str,
        upstream: str,
        model: str,
    ) -> None:
        self.agent = agent
        self.request_id = request_id
        self.upstream = upstream
        """The upstream that the agent asks for; empty for the default."""
        self.model = model
        """The model that the agent asks for where a call names none."""
        self.path = call.path
        self.host = call.host
        self.begun = False
        """Whether the head of the answer is sent."""
        self.scope = anyio.CancelScope()
        self.usage: Usage | None = None
        self.finish = ""
        """The upstream's finish reason."""
        self.error: GatewayError | None = None
        self.size = 0
        """Bytes of its body so far."""
        self._id = call.call
        self._send = send
        self._body = bytearray()
        self._whole = anyio.Event()
        self._inflow = wire.Inflow()
        self._outflow = wire.Outflow()
        self._credited = anyio.Event()

    def take(self, message: wire.CallData, size: int) -> None:
        """Take a piece of the body.

        Raises:
            WireError: if it is too much, or comes after the last.
        """
        self._inflow.took(size)
        self._body += message.data
        self.size += len(message.data)
        if self._whole.is_set() or self.size > BODY_LIMIT:
            raise wire.WireError(f"call {self._id} has a body over {BODY_LIMIT} bytes, or goes on after its end")
        if credit := self._inflow.dealt(size):
            self._send(wire.encode(wire.Credit("call", self._id, credit)))
        if message.last:
            self._whole.set()

    def credit(self, size: int) -> None:
        """Take the worker's word that it dealt with so many bytes."""
        self._outflow.credit(size)
        self._credited.set()

    async def body(self) -> bytes:
        """Await the whole body."""
        await self._whole.wait()
        body = bytes(self._body)
        self._body.clear()
        return body

    def head(self, status: int, headers: dict[str, str]) -> None:
        """Send the beginning of the answer."""
        self.begun = True
        self._send(wire.encode(wire.Head(self._id, status, headers)))

    async def data(self, data: bytes) -> None:
        """Send bytes of the answer, as fast as the worker takes them."""
        for piece, _ in wire.pieces(data):
            frame = wire.encode(wire.Data(self._id, piece))
            while not self._outflow.take(len(frame)):
                self._credited = anyio.Event()
                await self._credited.wait()
            self._send(frame)

    def end(self, error: str = "") -> None:
        """Send the end of the answer."""
        self._send(wire.encode(wire.End(self._id, error[:4096])))

    def close(self) -> None:
        """Let go of the body; what was learned stays."""
        self._body.clear()
