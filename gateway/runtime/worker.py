"""One worker of one agent, from its launch to its end, and the requests that it has."""

import contextlib
import shutil
import stat
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import anyio
import anyio.abc
import zmq

from gateway import errors
from gateway.catalog.spec import AgentSpec
from gateway.observe.logs import logger
from gateway.observe.text import printable
from gateway.runtime.launcher import Launch, Process
from gateway.runtime.link import Link, Listener
from gateway.runtime.run import Run
from gateway.runtime.session import Broker, Route, Session
from gateway.runtime.worker_log import WorkerLog
from worker import wire

LAST_WORDS_SECONDS = 1.0
"""How long the end of a process and the end of its connection may be apart."""
FAREWELL_SECONDS = 2.0
"""How long a worker has to end by itself when it is asked to."""


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


def remove(path: Path) -> None:
    """Remove what a worker left, whatever rights and links it gave it; what cannot be removed is logged."""

    def unlock(_: object, name: str, error: object) -> None:
        left = Path(name)
        left.parent.chmod(stat.S_IRWXU)
        if left.is_dir() and not left.is_symlink():  # a link leads to what is not the worker's
            left.chmod(stat.S_IRWXU)
            shutil.rmtree(left)
        else:
            left.unlink(missing_ok=True)

    try:
        if path.is_symlink() or not path.is_dir():
            path.unlink()
        else:
            shutil.rmtree(path, onerror=unlock)
    except OSError as error:
        logger().warning("state.left_behind", path=str(path), reason=error.strerror)


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
        ended: Callable[[Ending], None],
    ) -> None:
        self.spec = spec
        self.generation = generation
        self._limits = limits
        self._ended = ended
        self._session = Session(
            spec,
            route=route,
            exports=exports,
            broker=broker,
            notice=notice,
            send=self._send,
            settle=self._settle,
        )
        self._places = anyio.Semaphore(limits.concurrent_runs)
        self._link: Link | None = None
        self._ready = False
        self._settled = anyio.Event()
        self._hung_up = anyio.Event()
        self._over = anyio.Event()
        self._ending: Ending | None = None
        self._ready_at = 0.0

    @property
    def in_flight(self) -> int:
        """How many requests it has."""
        return len(self._session.runs)

    @property
    def pid(self) -> int:
        """The process that runs the agent, as the worker says."""
        return self._session.pid

    async def live(self, snapshot: Path, places: Places, ready: Callable[[], None]) -> None:
        """Start the process, call `ready` when it is, and return when nothing is left of it.

        That it has ended is told as soon as it is known: what is left of it takes a while to go.
        """
        with contextlib.ExitStack() as stack:
            log = WorkerLog(places.logs / self.spec.namespace / f"{self.spec.name}.log")
            stack.callback(log.close)
            scratch = Path(tempfile.mkdtemp(dir=places.scratch))
            stack.callback(remove, scratch)
            listener = Listener(places.sockets, scratch.name)
            stack.callback(listener.close)
            self._link = Link(
                zmq.Context.instance(), listener.address, self._session.take, self._hung_up.set, self._violated
            )
            stack.callback(self._link.close)
            process = Process(Launch(snapshot, scratch, listener.socket.fileno(), log.write))
            try:
                log.close_write()
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(log.pump)
                    tasks.start_soon(self._watch_process, process)
                    tasks.start_soon(self._watch_link)
                    await self._become_ready(ready)
                    listener.close()
                    await self._over.wait()
                    tasks.cancel_scope.cancel()
            finally:
                await self._farewell(process)

    async def _become_ready(self, ready: Callable[[], None]) -> None:
        with anyio.move_on_after(self._limits.ready_seconds):
            await self._settled.wait()
        if self._over.is_set():
            return
        if self._ready:
            self._ready_at = time.monotonic()
            ready()
        else:
            seconds = self._limits.ready_seconds
            reason = f"it was not ready within {seconds:g} s of its start: is there a loop at import?"
            self.end(Ending("unusable", reason))

    async def _watch_process(self, process: Process) -> None:
        how = await process.wait()
        with anyio.move_on_after(LAST_WORDS_SECONDS):
            await self._hung_up.wait()  # what it said before its end comes first
        if self._ready or how.startswith("killed"):
            self.end(Ending("died", f"its worker ended ({how})", uptime=self._uptime()))
        else:
            self.end(Ending("unusable", f"its process ended while the module was being imported ({how})"))

    async def _watch_link(self) -> None:
        await self._hung_up.wait()
        with anyio.move_on_after(LAST_WORDS_SECONDS):
            await self._over.wait()  # if the process ended, its status says more
        self.end(Ending("died", "it closed its connection", uptime=self._uptime()))

    async def _farewell(self, process: Process) -> None:
        with anyio.CancelScope(shield=True):
            self.end_runs()
            if self._link:
                self._link.send(wire.Stop())
                with anyio.move_on_after(FAREWELL_SECONDS if self._session.settled else 0):
                    await process.wait()
            await process.end()

    def _why_lost(self) -> errors.WorkerLost:
        reason = self._ending.reason if self._ending else "the gateway is stopping"
        return errors.WorkerLost(f"the worker of {self.spec.id} was lost in mid-answer: {reason}", retry_after=1)

    def _uptime(self) -> float:
        return time.monotonic() - self._ready_at if self._ready else 0.0

    async def enter(self) -> bool:
        """Take a place for a run, to be given back by `run`; false where the worker has ended meanwhile.

        Raises:
            AgentBusy: if none became free in time.
        """
        with anyio.move_on_after(self._limits.queue_seconds) as waiting:
            await self._places.acquire()
        if waiting.cancelled_caught:
            raise errors.AgentBusy(f"{self.spec.id} has {self._limits.concurrent_runs} runs under way", retry_after=5)
        if self._over.is_set():
            self._places.release()
        return not self._over.is_set()

    @asynccontextmanager
    async def run(self, body: bytes, request_id: str) -> AsyncIterator[Run]:
        """Run the agent over a request's body, on a place that is taken; all that the run opens ends with it."""
        failure: Exception | None = None
        try:
            async with anyio.create_task_group() as tasks:
                run = self._session.open_run(request_id, tasks)
                tasks.start_soon(run.send_body, body)
                tasks.start_soon(self._time_out, run)
                try:
                    yield run
                except Exception as error:  # kept out of the group, which would wrap it
                    failure = error
                finally:
                    self._session.close_run(run)
                    tasks.cancel_scope.cancel()
        finally:
            self._places.release()
        if failure:
            raise failure

    async def _time_out(self, run: Run) -> None:
        await anyio.sleep(self._limits.run_seconds)
        run.fail(errors.RunTooLong(f"the run took more than {self._limits.run_seconds:g} s"))

    def _send(self, frame: bytes) -> None:
        if self._link:
            self._link.send_frame(frame)

    def end(self, ending: Ending) -> None:
        """Note how it ends, once, and tell all who wait."""
        if self._ending is None:
            self._ending = ending
            self._settled.set()
            self._over.set()
            self.end_runs()
            self._ended(ending)

    def end_runs(self) -> None:
        """End the runs that it has, with the reason."""
        for run in self._session.runs.values():
            run.fail(self._why_lost())

    def _settle(self, message: wire.Ready | wire.Broken) -> None:
        if isinstance(message, wire.Ready):
            self._ready = True
            self._settled.set()
        else:
            self.end(Ending("unusable", printable(message.message), printable(message.traceback)))

    def _violated(self, reason: str) -> None:
        self.end(Ending("died", f"it broke the protocol: {reason}", uptime=self._uptime()))
