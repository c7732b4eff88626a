"""Starts workers: by fork from the zygote of their namespace, or each from a zygote of its own; runs in the gateway."""

import os
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import anyio
import anyio.abc

from gateway.runtime.process import Process
from gateway.runtime.worker_log import WorkerLog
from gateway.runtime.zygote import ENVIRON, LaunchError, Order, Zygote
from worker.plan import Plan


def environment(writable: str, named: dict[str, str]) -> dict[str, str]:
    """Return all that a worker finds in its environment: what policy names, and what programs cannot do without."""
    own = {
        "HOME": writable,
        "TMPDIR": writable,
        "USER": "agent",
        "OPENAI_API_KEY": "the-gateway-has-the-key",
        "PYTHONUNBUFFERED": "1",
    }
    return ENVIRON | own | named


@dataclass
class _Shared:
    zygote: Zygote | None = None
    lock: anyio.Lock = field(default_factory=anyio.Lock)


class Launcher:
    """Starts workers: by fork from the zygote of their namespace, or each from one of its own."""

    def __init__(self, logs: Path, plan: Callable[[str], Plan], tasks: anyio.abc.TaskGroup) -> None:
        self._logs = logs
        self._plan = plan
        """The walls of a zygote, by namespace."""
        self._tasks = tasks
        self._shared: dict[str, _Shared] = {}
        self._warming = anyio.CapacityLimiter(os.cpu_count() or 1)

    @asynccontextmanager
    async def launched(self, namespace: str, start: Literal["fork", "exec"], order: Order) -> AsyncIterator[Process]:
        """Start a worker, and end it after.

        Raises:
            LaunchError: if it cannot be started.
        """
        async with AsyncExitStack() as stack:
            if start == "fork":
                zygote = await self._zygote(namespace)
            else:
                zygote = await self._begin(namespace, warm=False)
                stack.callback(zygote.dismiss)
            process = await zygote.fork(order)
            stack.push_async_callback(process.end)
            yield process

    async def _zygote(self, namespace: str) -> Zygote:
        shared = self._shared.setdefault(namespace, _Shared())
        async with shared.lock:
            if shared.zygote is None or shared.zygote.over:
                shared.zygote = await self._begin(namespace, warm=True)
            return shared.zygote

    async def _begin(self, namespace: str, *, warm: bool) -> Zygote:
        async with self._warming:
            zygote = Zygote(
                namespace, self._plan(namespace), WorkerLog(self._logs / f"{namespace}.zygote.log"), warm=warm
            )
            self._tasks.start_soon(zygote.attend)
            try:
                await zygote.up()
            except LaunchError:
                zygote.dismiss()
                raise
            return zygote
