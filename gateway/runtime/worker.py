"""One worker of one agent, from its launch to its end, and the requests that it has."""

import contextlib
import os
import secrets
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import anyio
import anyio.abc
import anyio.to_thread
import zmq

from gateway import errors
from gateway.catalog.spec import AgentSpec
from gateway.observe.text import printable
from gateway.policy.agents import AgentPolicy
from gateway.runtime import plans
from gateway.runtime.cgroup import Group, Groups
from gateway.runtime.inspection import Mismatch, inspect
from gateway.runtime.launcher import Launcher, environment
from gateway.runtime.link import Link, Listener
from gateway.runtime.places import Places, remove
from gateway.runtime.plans import Host, Installed, folders
from gateway.runtime.process import Process, complaint
from gateway.runtime.run import Run
from gateway.runtime.session import Broker, Route, Session
from gateway.runtime.watch import Watch, tasks_of, watch_scratch
from gateway.runtime.worker_log import WorkerLog
from gateway.runtime.zygote import Order
from worker import wire
from worker.plan import Plan

LAST_WORDS_SECONDS = 1.0
"""How long the end of a process and the end of its connection may be apart."""
FAREWELL_SECONDS = 2.0
"""How long a worker has to end by itself when it is asked to."""


@dataclass(frozen=True)
class Ground:
    """What all workers stand on: this host's walls, what they see of its disk, who starts them."""

    host: Host
    installed: Installed
    launcher: Launcher
    places: Places
    watch: Watch
    pool: int
    """Processes that all agents may have together: without namespaces the kernel counts them as one user's."""
    groups: Groups | None
    """Where the kernel counts what a worker takes; None where the watch has to."""


@dataclass(frozen=True)
class Ending:
    """How a worker's life ended."""

    kind: Literal["unusable", "walls", "limit", "died"]
    """It cannot be imported; its walls are not as planned; it took more than it may; anything else."""
    reason: str
    traceback: str = ""
    uptime: float = 0.0


def _scratch(ground: Ground, stack: contextlib.AsyncExitStack) -> Path:
    """Return a folder for a worker to write to, empty, gone at its end; one with its own root has that in memory."""
    if ground.host.namespaces:
        return ground.places.scratch
    scratch = Path(tempfile.mkdtemp(dir=ground.places.scratch))
    stack.push_async_callback(_remove, scratch)
    if ground.host.uid >= 0:
        os.chown(scratch, ground.host.uid, ground.host.uid)
    return scratch


async def _remove(scratch: Path) -> None:
    with anyio.CancelScope(shield=True):
        await anyio.to_thread.run_sync(remove, scratch)


class Worker:
    """A worker process and what it is doing."""

    def __init__(
        self,
        spec: AgentSpec,
        generation: int,
        *,
        policy: AgentPolicy,
        ground: Ground,
        route: Route,
        exports: tuple[str, ...],
        broker: Broker,
        notice: Callable[[str], None],
        ended: Callable[[Ending], None],
    ) -> None:
        self.spec = spec
        self.generation = generation
        self.pid = 0
        """The process that runs the agent, as the kernel says; 0 before it was looked at."""
        self._policy = policy
        self._ground = ground
        self._ended = ended
        self._met = anyio.Event()
        self._group: Group | None = None
        self._session = Session(
            spec,
            route=route,
            exports=exports,
            broker=broker,
            notice=notice,
            send=self._send,
            met=self._met.set,
            settle=self._settle,
        )
        self._seats = anyio.Semaphore(policy.concurrent_runs)
        self._queue = 0
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

    async def live(self, snapshot: Path, ready: Callable[[], None]) -> None:
        """Start the process, call `ready` when it is, and return when nothing is left of it.

        That it has ended is told as soon as it is known: what is left of it takes a while to go.

        Raises:
            LaunchError: if it cannot be started.
        """
        ground, places = self._ground, self._ground.places
        async with contextlib.AsyncExitStack() as stack:
            log = WorkerLog(places.logs / self.spec.namespace / f"{self.spec.name}.log")
            stack.callback(log.close)
            own = folders(ground.host, snapshot, _scratch(ground, stack))
            listener = Listener(places.sockets, secrets.token_hex(8))
            stack.callback(listener.close)
            self._link = Link(
                zmq.Context.instance(), listener.address, self._session.take, self._hung_up.set, self._violated
            )
            stack.callback(self._link.close)
            if ground.groups:
                self._group = ground.groups.make(secrets.token_hex(8), self._policy.limits)
                stack.push_async_callback(self._group.remove)
            others = 0 if ground.host.namespaces else ground.pool + await anyio.to_thread.run_sync(tasks_of, self._uid)
            plan = plans.worker(ground.host, ground.installed, self._policy.limits, own, others)
            environ = environment(own.writable, self._policy.env)
            order = Order(f"agw:{self.spec.name}", plan, own.agent, environ, listener.socket.fileno(), log.write)
            process = await stack.enter_async_context(
                ground.launcher.launched(self.spec.namespace, self._policy.start, order)
            )
            log.close_write()
            threads = not ground.host.namespaces
            if not self._group:
                stack.enter_context(ground.watch.over(process.pid, self._policy.limits, threads, self._overdrew))
            stack.push_async_callback(self._farewell, process)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(log.pump)
                tasks.start_soon(self._watch_process, process, log)
                tasks.start_soon(self._watch_link)
                tasks.start_soon(self._welcome, process, plan)
                if own.scratch:
                    tasks.start_soon(watch_scratch, own.scratch, self._policy.limits, self._overdrew)
                await self._become_ready(ready)
                listener.close()
                await self._over.wait()
                tasks.cancel_scope.cancel()

    @property
    def _uid(self) -> int:
        return self._ground.host.uid if self._ground.host.uid >= 0 else os.geteuid()

    async def _become_ready(self, ready: Callable[[], None]) -> None:
        with anyio.move_on_after(self._policy.ready_seconds):
            await self._settled.wait()
        if self._over.is_set():
            return
        if self._ready:
            self._ready_at = time.monotonic()
            ready()
        else:
            seconds = self._policy.ready_seconds
            reason = f"it was not ready within {seconds:g} s of its start: is there a loop at import?"
            self.end(Ending("unusable", reason))

    async def _watch_process(self, process: Process, log: WorkerLog) -> None:
        how = await process.wait()
        with anyio.move_on_after(LAST_WORDS_SECONDS):
            await self._hung_up.wait()  # what it said before its end comes first
        log.catch_up()  # and what it wrote
        if self._group and self._group.reason:
            self._overdrew(self._group.reason)
        elif reason := complaint(how, log.last):
            self.end(Ending("walls", f"its walls could not be put up: {reason}"))
        elif "SIGXCPU" in how:
            self.end(Ending("limit", f"out of CPU time at {self._policy.limits.cpu_seconds} s", uptime=self._uptime()))
        elif self._ready or not self._met.is_set() or how.startswith("killed") or "zygote" in how:
            self.end(Ending("died", f"its worker ended ({how})", uptime=self._uptime()))
        else:
            self.end(Ending("unusable", f"its process ended while the module was being imported ({how})"))

    def _overdrew(self, reason: str) -> None:
        self.end(Ending("limit", reason, uptime=self._uptime()))

    async def _welcome(self, process: Process, plan: Plan) -> None:
        """Look at the worker from outside when it has said Hello, and only then tell it anything."""
        await self._met.wait()
        try:
            self.pid = inspect(process.pid, plan, self._uid)
        except Mismatch as error:
            with anyio.move_on_after(LAST_WORDS_SECONDS):
                await self._over.wait()  # one that has just ended has no walls to look at
            self.end(Ending("walls", f"its walls are not as planned: {error}"))
            return
        if self._group:
            self._group.take(process.pid, self.pid)
        self._session.load()

    async def _watch_link(self) -> None:
        await self._hung_up.wait()
        with anyio.move_on_after(LAST_WORDS_SECONDS):
            await self._over.wait()  # if the process ended, its status says more
        self.end(Ending("died", "it closed its connection", uptime=self._uptime()))

    async def _farewell(self, process: Process) -> None:
        with anyio.CancelScope(shield=True):
            self.end_runs()
            if self._link and self._session.settled:
                self._link.send(wire.Stop())
                with anyio.move_on_after(FAREWELL_SECONDS):
                    await process.wait()

    def _why_lost(self) -> errors.WorkerLost:
        reason = self._ending.reason if self._ending else "the gateway is stopping"
        return errors.WorkerLost(f"the worker of {self.spec.id} was lost in mid-answer: {reason}", retry_after=1)

    def _uptime(self) -> float:
        return time.monotonic() - self._ready_at if self._ready else 0.0

    async def enter(self) -> bool:
        """Take a place for a run, to be given back by `run`; false where the worker has ended meanwhile.

        Raises:
            AgentBusy: if too many wait for one already, or none became free in time.
        """
        busy = f"{self.spec.id} has {self._policy.concurrent_runs} runs under way"
        if self._seats.value == 0 and self._queue >= self._policy.queue:
            raise errors.AgentBusy(f"{busy}, and {self._queue} requests wait", retry_after=5)
        self._queue += 1
        try:
            with anyio.move_on_after(self._policy.queue_seconds) as waiting:
                await self._seats.acquire()
        finally:
            self._queue -= 1
        if waiting.cancelled_caught:
            raise errors.AgentBusy(busy, retry_after=5)
        if self._over.is_set():
            self._seats.release()
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
            self._seats.release()
        if failure:
            raise failure

    async def _time_out(self, run: Run) -> None:
        await anyio.sleep(self._policy.run_seconds)
        run.fail(errors.RunTooLong(f"the run took more than {self._policy.run_seconds:g} s"))

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
