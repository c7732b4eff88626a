"""One request's run in a worker, as the front door meets it."""

from collections import deque
from collections.abc import AsyncIterator, Callable

import anyio
import anyio.abc

from gateway import errors
from gateway.observe.text import printable
from gateway.observe.usage import Usage
from gateway.runtime.exchange import Exchange
from worker import wire

FAILURES: dict[wire.FailureKind, type[errors.GatewayError]] = {
    "agent": errors.AgentFailed,
    "guardrail": errors.GuardrailTripped,
    "max_turns": errors.TooManyTurns,
    "input": errors.BadRequest,
    "model": errors.UpstreamFailed,
}


class Run:
    """A run under way: its deltas, and what its model calls came to."""

    def __init__(self, id_: int, request_id: str, send: Callable[[bytes], None], tasks: anyio.abc.TaskGroup) -> None:
        self.id = id_
        self.request_id = request_id
        self.tasks = tasks
        """Owns all that is opened for this run."""
        self.ended = False
        """Whether the worker has said how it ended."""
        self._send = send
        self._deltas: deque[tuple[wire.Delta, int]] = deque()
        self._news = anyio.Event()
        self._error: errors.GatewayError | None = None
        self._done = False
        self._last_call = 0
        self._exchanges: dict[int, Exchange] = {}
        self._inflow = wire.Inflow()
        self._outflow = wire.Outflow()
        self._credited = anyio.Event()

    @property
    def usage(self) -> Usage | None:
        """The tokens of all its model calls, where the upstreams counted them."""
        counted = [each.usage for each in self._exchanges.values() if each.usage]
        return sum(counted, start=Usage()) if counted else None

    @property
    def calls(self) -> list[int]:
        """The ids of its model calls."""
        return list(self._exchanges)

    @property
    def finish_reason(self) -> str:
        """The upstream's reason for the end of the answer. A tool call that the agent served is no end of ours."""
        exchange = self._exchanges.get(self._last_call)
        reason = exchange.finish if exchange else ""
        return reason if reason in ("stop", "length", "content_filter") else "stop"

    async def deltas(self) -> AsyncIterator[list[wire.Delta]]:
        """Yield what the agent says, all that is there at a time; acknowledged when the next is asked for.

        Raises:
            GatewayError: if the run ends otherwise than well.
        """
        while True:
            if self._deltas:
                batch = list(self._deltas)
                self._deltas.clear()
                yield [delta for delta, _ in batch]
                credit = self._inflow.dealt(sum(size for _, size in batch))
                if credit and not self._error:
                    self._send(wire.encode(wire.Credit("request", self.id, credit)))
            elif self._error:
                raise self._error
            elif self._done:
                return
            else:
                self._news = anyio.Event()
                await self._news.wait()

    async def send_body(self, body: bytes) -> None:
        """Announce the run to the worker and send its body, as fast as the worker takes it."""
        self._send(wire.encode(wire.Run(self.id)))
        for data, last in wire.pieces(body):
            frame = wire.encode(wire.RunData(self.id, data, last))
            while not self._outflow.take(len(frame)):
                self._credited = anyio.Event()
                await self._credited.wait()
            self._send(frame)

    def take(self, message: wire.Delta | wire.Done | wire.Failed | wire.Credit, size: int) -> None:
        """Take a message of the worker.

        Raises:
            WireError: if it sends more than it may.
        """
        match message:
            case wire.Delta():
                self._inflow.took(size)
                if not self._error:
                    self._deltas.append((message, size))
            case wire.Done():
                self.ended = self._done = True
                self._last_call = message.call
            case wire.Failed():
                self.ended = True
                self.fail(self._explain(message))
            case wire.Credit():
                self._outflow.credit(message.bytes)
                self._credited.set()
        self._news.set()

    def open(self, call: int, exchange: Exchange) -> None:
        """Count a model call as this run's."""
        self._exchanges[call] = exchange

    def fail(self, error: errors.GatewayError) -> None:
        """End the run with an error, after what was said already."""
        if not self._done and not self._error:
            self._error = error
            self._news.set()

    def _explain(self, message: wire.Failed) -> errors.GatewayError:
        """The error of a run: what the broker knows of a failed model call comes before the worker's word."""
        broken = [each.error for each in self._exchanges.values() if each.error]
        if message.kind == "model" and broken:
            return broken[-1]
        text = printable(message.message)
        if message.kind == "agent":
            return errors.AgentFailed(f"the agent's code raised {text}; its log has the traceback")
        return FAILURES[message.kind](text)
