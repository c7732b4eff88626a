"""The composition root: the one file that makes the parts and wires them to each other."""

import contextlib
import fcntl
import ipaddress
import os
import resource
import signal
import socket
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path

import anyio
import anyio.abc
import httpx2
import uvicorn

from gateway.api.chat import STALL_SECONDS
from gateway.api.front import Front
from gateway.api.routes import application
from gateway.broker.models import ModelBroker
from gateway.broker.upstreams import Servers
from gateway.catalog.discovery import discover
from gateway.catalog.spec import AgentSpec
from gateway.errors import StartError, StateError
from gateway.observe.diagnostics import Diagnostic, Diagnostics
from gateway.observe.logs import logger
from gateway.observe.metrics import Metrics
from gateway.policy import yaml_file
from gateway.policy.agents import AgentPolicy, AgentsDocument, not_in_force
from gateway.policy.documents import Security, Upstreams
from gateway.policy.keys import Keys, operator_key
from gateway.runtime import plans
from gateway.runtime.cgroup import delegated
from gateway.runtime.host import installed, survey
from gateway.runtime.launcher import Launcher
from gateway.runtime.places import places
from gateway.runtime.supervisor import Supervisor
from gateway.runtime.watch import Watch
from gateway.runtime.worker import Ground
from gateway.settings import Settings
from worker.kernel import adopt_orphans
from worker.warden import sweep

BUILT_IN_UPSTREAMS = Path(__file__).parent / "policy" / "upstreams.yaml"
CONNECTIONS = httpx2.Limits(max_connections=1000, max_keepalive_connections=100)
"""Connections to upstreams."""
PATIENCE = 15.0
"""Seconds after which a start is announced although some agents are still on their way."""
OFF = "GATEWAY_SANDBOX is off: every agent can do what the gateway's user can, and read its keys"
CLOSE_SECONDS = 10
"""How long running answers have at a stop."""


def is_loopback(host: str) -> bool:
    """Whether an address can be reached from this machine only."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def bind(host: str, port: int) -> socket.socket:
    """Return a socket bound to an address.

    Raises:
        StartError: if it cannot be had.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    # Connections inherit it: one whose peer takes nothing is given up by the kernel, with all that it buffered.
    bound.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(STALL_SECONDS * 1000))
    try:
        bound.bind((host, port))
    except OSError as error:
        bound.close()
        raise StartError(f"cannot listen on {host}:{port}: {error.strerror}; choose another with --port") from None
    return bound


@asynccontextmanager
async def running(settings: Settings, address: str, loopback: bool) -> AsyncIterator[Front]:
    """Make all parts, start the agents, and end everything again.

    Raises:
        StartError: if something that a person can mend is wrong.
    """
    with ExitStack() as stack:
        _lock(settings.state, stack)
        keys = _keys(settings, loopback)
        named = settings.upstream_config or settings.upstreams_file.exists()
        policy = yaml_file.read(settings.upstreams_file if named else BUILT_IN_UPSTREAMS, Upstreams)
        named = settings.agent_config or settings.agents_file.exists()
        rules = yaml_file.read(settings.agents_file, AgentsDocument) if named else AgentsDocument()
        metrics = Metrics()
        diagnostics = Diagnostics(lambda stage: metrics.diagnostics.labels(stage).inc())
        found = discover(settings.agents)
        for problem in found.problems:
            diagnostics.report(problem)
        for key in not_in_force(rules):
            diagnostics.report(
                Diagnostic(
                    "policy",
                    f"`{key}` is read, and not acted on yet",
                    path=settings.agents_file.name,
                    severity="warning",
                )
            )
        for glob in rules.agents:
            if not any(fnmatchcase(spec.id, glob) for spec in found.agents):
                message = f"no agent's id matches {glob!r}, so what it sets is of no use"
                diagnostics.report(Diagnostic("policy", message, path=settings.agents_file.name, severity="warning"))
        async with httpx2.AsyncClient(limits=CONNECTIONS) as client:
            servers = Servers(policy, client, diagnostics, settings.default_upstream, settings.default_model)
            await servers.choose()
            agents = [_decided(spec, rules.policy_of(spec.id), servers) for spec in found.agents]
            async with anyio.create_task_group() as zygotes, anyio.create_task_group() as tasks:
                supervisor = Supervisor(
                    agents,
                    route=lambda spec: servers.route(spec.hints.upstream, spec.hints.model),
                    broker=ModelBroker(servers, metrics),
                    exports=settings.agent_exports,
                    ground=await _ground(settings, agents, diagnostics, zygotes),
                    metrics=metrics,
                    diagnostics=diagnostics,
                    tasks=tasks,
                )
                supervisor.start()
                (settings.state / "address").write_text(address + "\n")
                yield Front(settings, keys, supervisor, servers, metrics, diagnostics, loopback)
                tasks.cancel_scope.cancel()
                zygotes.cancel_scope.cancel()


async def _ground(
    settings: Settings,
    agents: Iterable[tuple[AgentSpec, AgentPolicy]],
    diagnostics: Diagnostics,
    zygotes: anyio.abc.TaskGroup,
) -> Ground:
    """Find out which walls there can be, and make ready what starts workers behind them."""
    seen, where = installed(), places(settings.state)
    host = await survey(seen, where.scratch, off=not settings.sandbox)
    if host.namespaces:
        settings.state.chmod(0o700)  # nobody else has to walk there
    if host.off:
        diagnostics.report(Diagnostic("walls", OFF, severity="warning", remedy="unset GATEWAY_SANDBOX"))
    for name, why in host.missing:
        message = f"this host has no wall {name!r} for agents: {why}"
        diagnostics.report(Diagnostic("walls", message, severity="warning"))
    logger().info("walls.surveyed", tier=host.tier, missing=dict(host.missing), landlock=host.landlock)
    launcher = Launcher(where.logs, lambda namespace: plans.zygote(host, seen, where.snapshots / namespace), zygotes)
    groups, watch = delegated(), Watch()
    zygotes.start_soon(watch.run)
    pool = sum(policy.limits.processes for _, policy in agents)
    return Ground(host, seen, launcher, where, watch, pool, groups)


def _keys(settings: Settings, loopback: bool) -> Keys:
    named = settings.security_config or settings.security_file.exists()
    security = yaml_file.read(settings.security_file, Security) if named else Security()
    keys = Keys(operator_key(settings.state / "key"), security.keys)
    if not loopback and not keys.for_others:
        raise StartError(
            f"to listen beyond this machine, add a key to {settings.security_file}: with only the operator's own,"
            " it would have to be given away"
        )
    return keys


def _decided(spec: AgentSpec, policy: AgentPolicy, servers: Servers) -> tuple[AgentSpec, AgentPolicy]:
    """Put together what an agent asks for and what policy says; refuse one that asks for what it cannot have."""
    asked = spec.hints.upstream
    hints = replace(spec.hints, upstream=policy.upstream or asked, model=policy.model or spec.hints.model)
    decided = replace(spec, hints=hints)
    if spec.refused:
        return decided, policy
    may = [each.name for each in servers if any(fnmatchcase(each.name, glob) for glob in policy.upstreams)]
    if policy.upstream and policy.upstream not in servers:
        known = ", ".join(each.name for each in servers)
        reason = f"policies/agents.yaml gives it the upstream {policy.upstream!r}; there are {known}"
        return replace(decided, refused=reason), policy
    if not policy.upstream and asked and asked not in may:
        offered = ", ".join(may) or "none that it may have"
        reason = f"agent.py: __gateway__ asks for the upstream {asked!r}; there are {offered}"
        return replace(decided, refused=reason), policy
    return decided, policy


def _lock(state: Path, stack: ExitStack) -> None:
    """Take a state folder for this process alone."""
    try:
        state.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = os.open(state / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise StateError(f"the state folder {state} cannot be used: {error.strerror}; set GATEWAY_STATE_DIR") from None
    stack.callback(os.close, lock)
    where = ""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        with contextlib.suppress(OSError):
            where = f" on {(state / 'address').read_text().strip()}"
        raise StateError(
            f"a gateway{where} already serves this home (it uses the state folder {state}): stop that one first"
        ) from None


async def serve(
    settings: Settings,
    host: str,
    port: int,
    *,
    up: Callable[[Front, str], None] = lambda front, address: None,
) -> None:
    """Serve until a signal says stop; `up` is called when every agent has started or failed, or takes long.

    Raises:
        StartError: if the gateway cannot start.
    """
    adopt_orphans()
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    try:
        with bind(host, port) as bound:
            address = _address(bound)
            async with running(settings, address, is_loopback(host)) as front:
                config = uvicorn.Config(
                    application(front),
                    lifespan="off",
                    http="httptools",
                    log_config=None,
                    access_log=False,
                    server_header=False,
                    timeout_graceful_shutdown=2 * CLOSE_SECONDS,  # for what even an error does not end
                )
                server = _Server(config)
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(_stop_on_signals, server, front, tasks)
                    tasks.start_soon(_announce, front, up, address)
                    await server.serve(sockets=[bound])
                    tasks.cancel_scope.cancel()
    finally:
        sweep()


class _Server(uvicorn.Server):
    """uvicorn, but for its signals: it would raise them again before our parts have ended."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals to us."""
        yield


async def _stop_on_signals(server: uvicorn.Server, front: Front, tasks: anyio.abc.TaskGroup) -> None:
    """Stop at the first signal, letting answers end for a while; at the second one, end now."""
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async for _ in signals:
            if server.should_exit:
                server.force_exit = True
                break
            server.should_exit = True
            tasks.start_soon(_give_up, front)


async def _give_up(front: Front) -> None:
    """Wait for answers that are under way, then end them with an error that says why."""
    requests = sum(each.in_flight for each in front.supervisor.statuses())
    hint = f"answers under way have {CLOSE_SECONDS} s; a second signal ends them now"
    logger().info("gateway.stopping", requests=requests, **({"hint": hint} if requests else {}))
    await anyio.sleep(CLOSE_SECONDS)
    front.supervisor.end_runs()


async def _announce(front: Front, up: Callable[[Front, str], None], address: str) -> None:
    with anyio.move_on_after(PATIENCE):
        await front.supervisor.settled()
    up(front, address)


def _address(bound: socket.socket) -> str:
    host, port = bound.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"
