"""Holds every worker: performs what the lifecycle decides, and hands requests to who is ready."""

import errno
import random
from collections.abc import AsyncIterator, Callable, Iterable, KeysView
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import anyio
import anyio.abc
import anyio.to_thread

from gateway import errors
from gateway.catalog import snapshots
from gateway.catalog.discovery import shown
from gateway.catalog.spec import AgentSpec
from gateway.observe.diagnostics import Diagnostic, Diagnostics, Stage
from gateway.observe.logs import logger
from gateway.observe.metrics import Metrics
from gateway.policy.agents import AgentPolicy
from gateway.runtime import lifecycle
from gateway.runtime.lifecycle import Life, Phase
from gateway.runtime.plans import Host
from gateway.runtime.run import Run
from gateway.runtime.session import Broker, Route
from gateway.runtime.worker import Ending, Ground, Worker
from gateway.runtime.zygote import LaunchError

JITTER = 0.25
"""A pause is made longer by up to this part of it, so that many do not end at once."""


STAGES: dict[str, Stage] = {"unusable": "import", "walls": "walls", "limit": "runtime", "died": "runtime"}
"""Where an operator finds each kind of ending."""


PASSING = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN, errno.ENOSPC)
"""Shortages of this host, which another try may not meet."""


@dataclass
class _Served:
    """An agent, its state, and its worker."""

    spec: AgentSpec
    policy: AgentPolicy
    life: Life = field(default_factory=Life)
    worker: Worker | None = None
    changed: anyio.Event = field(default_factory=anyio.Event)


@dataclass(frozen=True)
class Status:
    """An agent as others may see it."""

    id: str
    state: Phase
    listed: bool
    """Whether it stands in `/v1/models`."""
    reason: str
    generation: int
    restarts: int
    in_flight: int
    pid: int | None
    walls: str
    """The tier of its walls."""
    memory: str
    """Who holds it to its limit of memory."""


class Supervisor:
    """All agents of a home and their workers."""

    def __init__(
        self,
        agents: Iterable[tuple[AgentSpec, AgentPolicy]],
        *,
        route: Callable[[AgentSpec], Route],
        broker: Broker,
        exports: tuple[str, ...],
        ground: Ground,
        metrics: Metrics,
        diagnostics: Diagnostics,
        tasks: anyio.abc.TaskGroup,
    ) -> None:
        self._served = {spec.id: _Served(spec, policy) for spec, policy in agents}
        self._route = route
        self._broker = broker
        self._exports = exports
        self._ground = ground
        self._metrics = metrics
        self._diagnostics = diagnostics
        self._tasks = tasks

    def start(self) -> None:
        """Start all agents, side by side."""
        for served in self._served.values():
            if refused := served.spec.refused or self._ground.host.why_not(served.policy.sandbox):
                served.life = Life(Phase.FAILED, reason=refused)
                self._report(served, Ending("unusable" if served.spec.refused else "walls", refused))
            else:
                self._tell(served, lifecycle.Start())

    async def settled(self) -> None:
        """Wait until no agent is starting for the first time."""
        for served in self._served.values():
            while served.life.phase is Phase.STARTING and not served.life.worked:
                await served.changed.wait()

    def statuses(self) -> list[Status]:
        """Return all agents, by id."""
        return [self._status(served) for _, served in sorted(self._served.items())]

    @property
    def host(self) -> Host:
        """Which walls this host gives."""
        return self._ground.host

    @property
    def memory(self) -> str:
        """Who holds workers to their limit of memory: `cgroup` or `watch`."""
        return "cgroup" if self._ground.groups else "watch"

    def walls(self) -> dict[str, object]:
        """Return which walls stand around workers on this host, and which are missing and why."""
        host = self.host
        return {"tier": host.tier, "missing": dict(host.missing), "landlock": host.landlock, "memory": self.memory}

    def end_runs(self) -> None:
        """End all runs that are under way, for the gateway stops."""
        for served in self._served.values():
            if served.worker:
                served.worker.end_runs()

    def ids(self) -> KeysView[str]:
        """Return the ids of all agents."""
        return self._served.keys()

    def status(self, agent: str) -> Status:
        """Return one agent."""
        return self._status(self._served[agent])

    def route(self, agent: str) -> Route:
        """Return where an agent's model calls go."""
        return self._route(self._served[agent].spec)

    @asynccontextmanager
    async def run(self, agent: str, body: bytes, request_id: str) -> AsyncIterator[Run]:
        """Run an agent over a request's body, as soon as it is ready.

        Raises:
            UnavailableError: if no worker can take it.
        """
        worker = await self._ready_worker(self._served[agent])
        while not await worker.enter():
            worker = await self._ready_worker(self._served[agent])
        async with worker.run(body, request_id) as run:
            yield run

    async def _ready_worker(self, served: _Served) -> Worker:
        with anyio.move_on_after(served.policy.ready_seconds):
            while served.life.phase is Phase.STARTING:
                await served.changed.wait()
        if served.life.phase is Phase.READY and served.worker:
            return served.worker
        retry = 5 if served.life.phase in (Phase.BACKOFF, Phase.STARTING) else None
        reason = served.life.reason or "it is still starting"
        raise errors.AgentUnavailable(f"{served.spec.id} is {served.life.phase}: {reason}", retry_after=retry)

    def _status(self, served: _Served) -> Status:
        life, worker = served.life, served.worker
        return Status(
            id=served.spec.id,
            state=life.phase,
            listed=life.worked and life.phase in (Phase.READY, Phase.STARTING, Phase.BACKOFF),
            reason=life.reason,
            generation=life.generation,
            restarts=max(life.generation - 1, 0),
            in_flight=worker.in_flight if worker else 0,
            pid=worker.pid if worker else None,
            walls=self._ground.host.tier,
            memory=self.memory,
        )

    def _tell(self, served: _Served, event: lifecycle.Event) -> None:
        """Let an event happen to an agent, and do what follows from it."""
        served.life, actions = lifecycle.step(served.life, event)
        for action in actions:
            match action:
                case lifecycle.Launch():
                    self._tasks.start_soon(self._tend, served, action.generation)
                case lifecycle.Pause():
                    self._tasks.start_soon(self._pause, served, action)
        served.changed.set()
        served.changed = anyio.Event()

    async def _pause(self, served: _Served, pause: lifecycle.Pause) -> None:
        await anyio.sleep(pause.seconds * (1 + JITTER * random.random()))  # noqa: S311 - no secret depends on it
        self._tell(served, lifecycle.PauseOver(pause.generation))

    async def _tend(self, served: _Served, generation: int) -> None:
        """Own one worker from its launch until nothing is left of it."""
        id_, begun = served.spec.id, anyio.current_time()
        log = logger().bind(agent=id_, generation=generation)

        def ready() -> None:
            took = anyio.current_time() - begun
            log.info("worker.ready", pid=worker.pid, seconds=round(took, 3))
            self._metrics.ready.labels(id_).observe(took)
            for stage in set(STAGES.values()):
                self._diagnostics.resolve(id_, stage)
            served.worker = worker
            self._tell(served, lifecycle.Became(generation))

        def ended(ending: Ending) -> None:
            log.warning("worker.end", pid=worker.pid, kind=ending.kind, reason=ending.reason)
            self._metrics.ends.labels(id_, ending.kind).inc()
            self._ended(served, generation, ending)

        worker = Worker(
            served.spec,
            generation,
            policy=served.policy,
            ground=self._ground,
            route=self._route(served.spec),
            exports=(served.spec.hints.export,) if served.spec.hints.export else self._exports,
            broker=self._broker,
            notice=lambda message: self._notice(id_, message),
            ended=ended,
        )
        log.info("worker.start")
        self._metrics.starts.labels(id_).inc()
        try:
            store = self._ground.places.snapshots / served.spec.namespace
            snapshot = await anyio.to_thread.run_sync(snapshots.take, served.spec.folder, store)
            await worker.live(snapshot, ready)
        except (snapshots.SnapshotError, OSError) as error:
            passing = isinstance(error, OSError) and error.errno in PASSING
            worker.end(Ending("died" if passing else "unusable", f"it cannot be started: {error}"))
        except LaunchError as error:
            worker.end(Ending("died", f"it could not be started: {error}"))
        except Exception as error:  # a fault of ours in tending one worker must not end the others
            log.exception("gateway.bug")
            worker.end(Ending("died", f"the gateway failed to tend it: {type(error).__name__}"))

    def _notice(self, id_: str, message: str) -> None:
        self._diagnostics.report(Diagnostic("import", message, agent=id_, severity="warning"))

    def _ended(self, served: _Served, generation: int, ending: Ending) -> None:
        served.worker = None
        self._report(served, ending)
        if ending.kind in ("unusable", "walls"):
            self._tell(served, lifecycle.Unusable(generation, ending.reason))
        else:
            self._tell(served, lifecycle.Died(generation, ending.reason, ending.uptime))

    def _report(self, served: _Served, ending: Ending) -> None:
        self._diagnostics.report(
            Diagnostic(
                STAGES[ending.kind],
                ending.reason,
                agent=served.spec.id,
                path=shown(Path(served.spec.folder.name)),
                traceback=ending.traceback,
            )
        )
