"""One worker of one agent, from its launch to its end, and the requests that it has."""

import contextlib
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import anyio
import anyio.abc
import zmq

from gateway import errors
from gateway.catalog.spec import AgentSpec
from gateway.observe.logs import logger
from gateway.runtime.exchange import Exchange
from gateway.runtime.launcher import Launch, Process
from gateway.runtime.link import Link, Listener
from gateway.runtime.run import Run
from gateway.runtime.worker_log import WorkerLog
from worker import wire

CALLS = 256
"""Model calls that a worker may have open at a time."""
BODIES = 128 << 20
"""Bytes that the bodies of a worker's open calls may have together."""
FAREWELL_SECONDS = 2.0
"""How long a worker has to end by itself when it is asked to."""

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


@dataclass(frozen=True)
class Limits:
    """What a worker may take."""

    ready_seconds: float = 60
    run_seconds: float = 600
    concurrent_runs: int = 32
    queue_seconds: float = 30


@dataclass(frozen=True)
class Places:
    """Folders of the state that workers use."""

    sockets: Path
    scratch: Path
    snapshots: Path
    logs: Path


@dataclass(frozen=True)
class Ending:
    """How a worker's life ended."""

    kind: Literal["unusable", "died"]
    reason: str
    traceback: str = ""
    uptime: float = 0.0


class Worker:
    """A worker process and what it is doing."""

    def __init__(
        self,
        spec: AgentSpec,
        generation: int,
        *,
        route: Route,
        exports: tuple[str, ...],
        limits: Limits,
        broker: Broker,
        notice: Callable[[str], None],
    ) -> None:
        self.spec = spec
        self.generation = generation
        self.pid = 0
        """The process that runs the agent, as the worker says."""
        self._route = route
        self._exports = exports
        self._limits = limits
        self._broker = broker
        self._notice = notice
        self._places = anyio.CapacityLimiter(limits.concurrent_runs)
        self._link: Link | None = None
        self._runs: dict[int, Run] = {}
        self._last_run = 0
        self._calls: dict[int, Exchange] = {}
        self._last_call = 0
        self._hello = self._ready = False
        self._settled = anyio.Event()
        self._over = anyio.Event()
        self._ending: Ending | None = None
        self._ready_at = 0.0

    @property
    def in_flight(self) -> int:
        """How many requests it has."""
        return len(self._runs)

    async def live(self, snapshot: Path, places: Places, ready: Callable[[], None]) -> Ending:
        """Start the process, call `ready` when it is, and return when it has ended."""
        with contextlib.ExitStack() as stack:
            log = WorkerLog(places.logs / self.spec.namespace / f"{self.spec.name}.log")
            stack.callback(log.close)
            scratch = Path(tempfile.mkdtemp(dir=places.scratch))
            stack.callback(shutil.rmtree, scratch, ignore_errors=True)
            listener = Listener(places.sockets, scratch.name)
            stack.callback(listener.close)
            self._link = Link(zmq.Context.instance(), listener.address, self._take, self._lost)
            stack.callback(self._link.close)
            process = Process(Launch(snapshot, scratch, listener.socket.fileno(), log.write))
            try:
                log.close_write()
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(log.pump)
                    tasks.start_soon(self._watch, process)
                    await self._become_ready(ready)
                    listener.close()
                    await self._over.wait()
                    tasks.cancel_scope.cancel()
            finally:
                await self._farewell(process)
        return self._ending or Ending("died", "it was stopped")

    async def _become_ready(self, ready: Callable[[], None]) -> None:
        with anyio.move_on_after(self._limits.ready_seconds):
            await self._settled.wait()
        if self._ready:
            self._ready_at = time.monotonic()
            ready()
        elif not self._over.is_set():
            seconds = self._limits.ready_seconds
            self._end(
                Ending(
                    "unusable",
                    f"it was not ready within {seconds:g} s of its start: is there a loop at import?",
                )
            )

    async def _watch(self, process: Process) -> None:
        how = await process.wait()
        if self._ready or how.startswith("killed"):
            self._end(Ending("died", f"its worker ended ({how})", uptime=self._uptime()))
        else:
            self._end(Ending("unusable", f"its process ended while the module was being imported ({how})"))

    async def _farewell(self, process: Process) -> None:
        with anyio.CancelScope(shield=True):
            for run in self._runs.values():
                run.fail(self._why_lost())
            if self._link:
                self._link.send(wire.Stop())
                with anyio.move_on_after(FAREWELL_SECONDS if self._hello else 0):
                    await process.wait()
            await process.end()

    def _why_lost(self) -> errors.WorkerLost:
        reason = self._ending.reason if self._ending else "the gateway is stopping"
        return errors.WorkerLost(f"the worker of {self.spec.id} was lost in mid-answer: {reason}", retry_after=1)

    def _uptime(self) -> float:
        return time.monotonic() - self._ready_at if self._ready else 0.0

    @asynccontextmanager
    async def run(self, body: bytes, request_id: str) -> AsyncIterator[Run]:
        """Run the agent over a request's body; when the context ends, so does all that the run opened.

        Raises:
            AgentBusy: if no place became free in time.
        """
        place, failure = object(), None
        with anyio.move_on_after(self._limits.queue_seconds) as waiting:
            await self._places.acquire_on_behalf_of(place)
        if waiting.cancelled_caught:
            raise errors.AgentBusy(f"{self.spec.id} has {self._limits.concurrent_runs} runs under way", retry_after=5)
        try:
            if self._over.is_set():
                raise self._why_lost()
            async with anyio.create_task_group() as tasks:
                run = self._open_run(request_id, tasks)
                tasks.start_soon(run.send_body, body)
                tasks.start_soon(self._time_out, run)
                try:
                    yield run
                except Exception as error:  # kept out of the group, which would wrap it
                    failure = error
                finally:
                    self._close_run(run)
                    tasks.cancel_scope.cancel()
        finally:
            self._places.release_on_behalf_of(place)
        if failure:
            raise failure

    def _open_run(self, request_id: str, tasks: anyio.abc.TaskGroup) -> Run:
        self._last_run += 1
        run = self._runs[self._last_run] = Run(self._last_run, request_id, self._send, tasks)
        return run

    def _close_run(self, run: Run) -> None:
        del self._runs[run.id]
        if not run.ended:
            self._send(wire.encode(wire.Cancel(run.id)))
        for id_ in run.calls:
            if exchange := self._calls.pop(id_, None):
                exchange.end(RUN_OVER)  # a thread of the agent may still wait for it

    async def _time_out(self, run: Run) -> None:
        await anyio.sleep(self._limits.run_seconds)
        run.fail(errors.RunTooLong(f"the run took more than {self._limits.run_seconds:g} s"))

    def _send(self, frame: bytes) -> None:
        if self._link:
            self._link.send_frame(frame)

    def _end(self, ending: Ending) -> None:
        if self._ending is None:
            self._ending = ending
            self._settled.set()
            self._over.set()
            for run in self._runs.values():
                run.fail(self._why_lost())

    def _lost(self, reason: str) -> None:
        """The link is gone: the worker may have ended, and then its exit status says more."""
        if "protocol" in reason or self._ready:
            self._end(Ending("died", reason, uptime=self._uptime()))

    def _take(self, message: wire.ToGateway, size: int) -> None:
        """Take a message of the worker; whatever does not fit what it was given is an end of it.

        Raises:
            WireError: to end the worker.
        """
        if not self._hello and not isinstance(message, wire.Hello):
            raise wire.WireError(f"{type(message).__name__} before Hello")
        match message:
            case wire.Hello():
                self._greet(message)
            case wire.Ready() | wire.Broken():
                self._settle(message)
            case wire.Notice():
                self._notice(message.message)
            case wire.Call():
                self._open_call(message)
            case wire.CallData() | wire.Hangup() | wire.Credit(stream="call"):
                self._take_of_call(message, size)
            case wire.Credit():
                self._take_of_run(message.id, message, size)
            case wire.Delta() | wire.Done() | wire.Failed():
                self._take_of_run(message.request, message, size)

    def _take_of_run(self, id_: int, message: wire.Delta | wire.Done | wire.Failed | wire.Credit, size: int) -> None:
        run = self._run_of(id_)
        if run and not run.ended:
            run.take(message, size)

    def _take_of_call(self, message: wire.CallData | wire.Hangup | wire.Credit, size: int) -> None:
        exchange = self._exchange(message.id if isinstance(message, wire.Credit) else message.call)
        if exchange is None:
            return  # it has just been closed
        match message:
            case wire.CallData():
                self._collect(exchange, message, size)
            case wire.Hangup():
                exchange.scope.cancel()
            case wire.Credit():
                exchange.credit(message.bytes)

    def _greet(self, hello: wire.Hello) -> None:
        if self._hello:
            raise wire.WireError("a second Hello")
        if hello.version != wire.VERSION:
            raise wire.WireError(f"it speaks version {hello.version} of the wire, not {wire.VERSION}")
        self._hello, self.pid = True, hello.pid
        load = wire.Load(self.spec.id, self._exports, self._route.api, self._route.model)
        self._send(wire.encode(load))

    def _settle(self, message: wire.Ready | wire.Broken) -> None:
        if self._settled.is_set():
            raise wire.WireError(f"{type(message).__name__} for the second time")
        if isinstance(message, wire.Ready):
            self._ready = True
            self._settled.set()
        else:
            self._end(Ending("unusable", message.message, message.traceback))

    def _run_of(self, id_: int) -> Run | None:
        if id_ > self._last_run or id_ == 0:
            raise wire.WireError(f"it spoke of request {id_}, which it was never given")
        return self._runs.get(id_)

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
        exchange = Exchange(
            call,
            self._send,
            agent=self.spec.id,
            request_id=run.request_id,
            upstream=self.spec.hints.upstream,
            model=self.spec.hints.model,
        )
        self._calls[call.call] = exchange
        run.open(call.call, exchange)
        run.tasks.start_soon(self._serve_call, call.call, exchange)

    def _collect(self, exchange: Exchange, message: wire.CallData, size: int) -> None:
        exchange.take(message, size)
        if sum(each.size for each in self._calls.values()) > BODIES:
            del self._calls[message.call]
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
            self._calls.pop(id_, None)


RUN_OVER = "the run of this model call is over"
OUTSIDE = (
    "a model was called outside any run: the gateway brokers model calls only for a request,"
    " so call the model inside the agent or a tool"
)
