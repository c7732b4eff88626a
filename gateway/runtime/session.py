"""What the gateway and one worker say to each other: its agent, its requests, its model calls."""

from collections.abc import Awaitable, Callable
from typing import Protocol

import anyio.abc

from gateway.catalog.spec import AgentSpec
from gateway.observe.logs import logger
from gateway.observe.text import printable
from gateway.runtime.exchange import Exchange
from gateway.runtime.run import Run
from worker import wire

CALLS = 256
"""Model calls that a worker may have open at a time."""
NOTICES = 200
"""Notices that a worker may send in its life."""
LATE = 100_000
"""Messages about what is closed that a worker may send until something else is: more than a window has room for."""
BODIES = 128 << 20
"""Bytes that the bodies of a worker's open calls may have together."""
RUN_CALLS = 5000
"""Model calls of one run."""
RUN_OVER = "the run of this model call is over"
OUTSIDE = (
    "a model was called outside any run: the gateway brokers model calls only for a request,"
    " so call the model inside the agent or a tool"
)


Broker = Callable[[Exchange], Awaitable[None]]


class Route(Protocol):
    """Where an agent's model calls go."""

    @property
    def name(self) -> str:
        """The upstream; empty for none."""

    @property
    def api(self) -> wire.Api:
        """The dialect that it speaks."""

    @property
    def model(self) -> str:
        """The model where a call names none."""


class Session:
    """The state of the talk with one worker; hostile until checked, message by message."""

    def __init__(
        self,
        spec: AgentSpec,
        *,
        route: Route,
        exports: tuple[str, ...],
        broker: Broker,
        notice: Callable[[str], None],
        send: Callable[[bytes], None],
        met: Callable[[], None],
        settle: Callable[[wire.Ready | wire.Broken], None],
    ) -> None:
        self.runs: dict[int, Run] = {}
        """Its requests."""
        self._spec = spec
        self._route = route
        self._exports = exports
        self._broker = broker
        self._notice = notice
        self._send = send
        self._met = met
        """Called at its Hello."""
        self._settle = settle
        self._greeted = False
        self.settled = False
        """Whether it has said how its import went; from then on it listens."""
        self._notices = 0
        self._late = 0
        self._last_run = 0
        self._calls: dict[int, Exchange] = {}
        self._last_call = 0

    def open_run(self, request_id: str, tasks: anyio.abc.TaskGroup) -> Run:
        """Count a new request; its body is for the caller to send."""
        self._last_run += 1
        run = self.runs[self._last_run] = Run(self._last_run, request_id, self._send, tasks)
        return run

    def close_run(self, run: Run) -> None:
        """End what there is still of a request."""
        del self.runs[run.id]
        self._late = 0
        if not run.ended:
            self._send(wire.encode(wire.Cancel(run.id)))
        for id_ in run.calls:
            if exchange := self._close_call(id_):
                exchange.end(RUN_OVER)  # a thread of the agent may still wait for it

    def _close_call(self, id_: int) -> Exchange | None:
        exchange = self._calls.pop(id_, None)
        self._late = 0
        if exchange:
            exchange.close()
        return exchange

    def take(self, message: wire.ToGateway, size: int) -> None:
        """Take a message of the worker; whatever does not fit what it was given is an end of it.

        Raises:
            WireError: to end the worker.
        """
        if not self._greeted and not isinstance(message, wire.Hello):
            raise wire.WireError(f"{type(message).__name__} before Hello")
        match message:
            case wire.Hello():
                self._greet(message)
            case wire.Ready() | wire.Broken():
                self._take_outcome(message)
            case wire.Notice():
                self._take_notice(message)
            case wire.Call():
                self._open_call(message)
            case wire.CallData() | wire.Hangup() | wire.Credit(stream="call"):
                self._take_of_call(message, size)
            case wire.Credit():
                self._take_of_run(message.id, message, size)
            case wire.Delta() | wire.Done() | wire.Failed():
                self._take_of_run(message.request, message, size)

    def _take_notice(self, notice: wire.Notice) -> None:
        self._notices += 1
        if self._notices > NOTICES:
            raise wire.WireError(f"more than {NOTICES} notices")
        self._notice(printable(notice.message))

    def _take_of_run(self, id_: int, message: wire.Delta | wire.Done | wire.Failed | wire.Credit, size: int) -> None:
        run = self._run_of(id_)
        if run and not run.ended:
            run.take(message, size)
        else:
            self._drop_late()

    def _drop_late(self) -> None:
        """Drop what is about something that has just been closed; only so much can have been under way."""
        self._late += 1
        if self._late > LATE:
            raise wire.WireError("it goes on about requests and calls that are closed")

    def _take_of_call(self, message: wire.CallData | wire.Hangup | wire.Credit, size: int) -> None:
        exchange = self._exchange(message.id if isinstance(message, wire.Credit) else message.call)
        if exchange is None:
            self._drop_late()
            return
        match message:
            case wire.CallData():
                self._collect(exchange, message, size)
            case wire.Hangup():
                exchange.scope.cancel()
            case wire.Credit():
                exchange.credit(message.bytes)

    def _greet(self, hello: wire.Hello) -> None:
        if self._greeted:
            raise wire.WireError("a second Hello")
        if hello.version != wire.VERSION:
            raise wire.WireError(f"it speaks version {hello.version} of the wire, not {wire.VERSION}")
        self._greeted = True
        self._met()

    def load(self) -> None:
        """Tell the worker to import its agent."""
        load = wire.Load(self._spec.id, self._exports, self._route.api, self._route.model)
        self._send(wire.encode(load))

    def _take_outcome(self, message: wire.Ready | wire.Broken) -> None:
        if self.settled:
            raise wire.WireError(f"{type(message).__name__} for the second time")
        self.settled = True
        self._settle(message)

    def _run_of(self, id_: int) -> Run | None:
        if id_ > self._last_run or id_ == 0:
            raise wire.WireError(f"it spoke of request {id_}, which it was never given")
        return self.runs.get(id_)

    def _exchange(self, id_: int) -> Exchange | None:
        if id_ > self._last_call:
            raise wire.WireError(f"it spoke of call {id_}, which it never opened")
        return self._calls.get(id_)

    def _open_call(self, call: wire.Call) -> None:
        if call.call <= self._last_call:
            raise wire.WireError(f"call {call.call} for the second time")
        if len(self._calls) >= CALLS:
            raise wire.WireError(f"more than {CALLS} model calls at a time")
        self._last_call = call.call
        run = self._run_of(call.request) if call.request else None
        if run is None or run.ended:
            self._send(wire.encode(wire.End(call.call, RUN_OVER if call.request else OUTSIDE)))
            return
        if len(run.calls) >= RUN_CALLS:
            raise wire.WireError(f"more than {RUN_CALLS} model calls in one run")
        exchange = Exchange(
            call,
            self._send,
            agent=self._spec.id,
            request_id=run.request_id,
            upstream=self._spec.hints.upstream,
            model=self._spec.hints.model,
        )
        self._calls[call.call] = exchange
        run.open(call.call, exchange)
        run.tasks.start_soon(self._serve_call, call.call, exchange)

    def _collect(self, exchange: Exchange, message: wire.CallData, size: int) -> None:
        exchange.take(message, size)
        if sum(each.size for each in self._calls.values()) > BODIES:
            self._close_call(message.call)
            exchange.scope.cancel()
            exchange.end(f"the bodies of this agent's open model calls are over {BODIES >> 20} MiB")

    async def _serve_call(self, id_: int, exchange: Exchange) -> None:
        try:
            with exchange.scope:
                await self._broker(exchange)
        except Exception as error:
            logger().exception("gateway.bug", agent=exchange.agent, request_id=exchange.request_id)
            exchange.end(f"the gateway failed: {type(error).__name__}")
        finally:
            self._close_call(id_)
