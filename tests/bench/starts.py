"""Measures what a worker costs, forked and exec'd side by side: time to its first message, and memory with ten alive.

It starts workers as the gateway does, by the gateway's own launcher, behind the walls that this host gives.
"""

import os
import secrets
import statistics
import tempfile
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import anyio
import zmq
from rich.console import Console
from rich.table import Table

from gateway.catalog import snapshots
from gateway.observe import logs
from gateway.policy.agents import Limits
from gateway.runtime import plans
from gateway.runtime.host import installed, survey
from gateway.runtime.inspection import inspect
from gateway.runtime.launcher import Launcher, environment
from gateway.runtime.link import Link, Listener
from gateway.runtime.plans import Host, Installed
from gateway.runtime.worker_log import WorkerLog
from gateway.runtime.zygote import Order
from worker import wire
from worker.warden import children

ALIVE = 10
START_SECONDS = 60
AGENT = Path(__file__).parents[2] / "agents" / "Weather"


@dataclass
class Bench:
    """A launcher with all that it needs."""

    root: Path
    host: Host
    seen: Installed
    launcher: Launcher
    snapshot: Path

    async def start(self, start: Literal["fork", "exec"], stack: AsyncExitStack) -> tuple[float, float, int]:
        """Start one worker; return the seconds to its Hello and to Ready, and the pid of its guard."""
        begun = anyio.current_time()
        greeted, ready = anyio.Event(), anyio.Event()
        times: list[float] = []

        def take(message: wire.ToGateway, _: int) -> None:
            times.append(anyio.current_time() - begun)
            (greeted if isinstance(message, wire.Hello) else ready).set()

        listener = Listener(self.root / "run", secrets.token_hex(4))
        stack.callback(listener.close)
        link = Link(zmq.Context.instance(), listener.address, take, lambda: None, lambda reason: None)
        stack.callback(link.close)
        own = plans.folders(self.host, self.snapshot, self.root / "scratch")
        plan = plans.worker(self.host, self.seen, Limits(), own, others=1000)
        log = WorkerLog(self.root / "worker.log")
        stack.callback(log.close)
        environ = environment(own.writable, {})
        order = Order("weather", plan, own.agent, environ, listener.socket.fileno(), log.write)
        process = await stack.enter_async_context(self.launcher.launched("bench", start, order))
        with anyio.fail_after(START_SECONDS):
            await greeted.wait()
            inspect(process.pid, plan, self.host.uid if self.host.uid >= 0 else os.geteuid())
            link.send(wire.Load("bench/weather", ("agent",), "chat_completions", "model"))
            await ready.wait()
        return times[0], times[-1], process.pid


def tree(pid: int) -> list[int]:
    """A process and all below it."""
    found = [pid]
    for each in found:
        found += children(each)
    return found


def pss_mb(pids: list[int]) -> float:
    """What processes take together, shared pages divided among all who share them."""
    total = 0
    for pid in pids:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        total += int(next(line for line in lines if line.startswith("Pss:")).split()[1])
    return total / 1024


def main() -> None:
    """Measure both ways, and print a table."""
    logs.configure("error")
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        root.chmod(0o755)
        for each in ("run", "scratch"):
            (root / each).mkdir()
        snapshot = snapshots.take(AGENT, root / "snapshots" / "bench")
        anyio.run(measure, root, snapshot, backend_options={"use_uvloop": True})


async def measure(root: Path, snapshot: Path) -> None:
    """Start workers in both ways, and print what they cost."""
    console = Console()
    seen = installed()
    host = await survey(seen, root, off=False)
    table = Table("start", "first message, ms", "ready, ms", "MB a worker", "MB all in", box=None)
    for start in ("fork", "exec"):
        async with anyio.create_task_group() as tasks, AsyncExitStack() as stack:
            launcher = Launcher(root, lambda ns: plans.zygote(host, seen, root / "snapshots" / ns), tasks)
            bench = Bench(root, host, seen, launcher, snapshot)
            console.print(f"{ALIVE} workers by {start} ...")
            async with AsyncExitStack() as first:
                await bench.start(start, first)  # its zygote warms up, and files are read
            found = [await bench.start(start, stack) for _ in range(ALIVE)]
            table.add_row(start, *_figures(found))
            await stack.aclose()
            tasks.cancel_scope.cancel()
    console.print(f"\nwalls: {host.tier}; medians of {ALIVE} (least to most); memory is PSS with {ALIVE} alive,")
    console.print("of a worker with its guard, and all in with their zygotes and wardens spread over them")
    console.print(table)


def _figures(found: list[tuple[float, float, int]]) -> list[str]:
    firsts, readies = ([each[index] * 1000 for each in found] for index in (0, 1))
    workers = [pid for _, _, guard in found for pid in tree(guard)]
    everything = [pid for child in children(os.getpid()) for pid in tree(child)]
    spans = [f"{statistics.median(each):.1f} ({min(each):.1f} to {max(each):.1f})" for each in (firsts, readies)]
    return [*spans, f"{pss_mb(workers) / ALIVE:.1f}", f"{pss_mb(everything) / ALIVE:.1f}"]


if __name__ == "__main__":
    main()
