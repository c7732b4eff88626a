"""Watches what the processes of each worker take together, where no cgroup does; runs in the gateway."""

import contextlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import anyio
import anyio.to_thread

from gateway.observe.logs import logger
from gateway.policy.agents import Limits
from worker.warden import children

TICK = 0.02
"""Seconds between two looks at a worker that has grown by a fourth of its memory."""
CALM = 5
"""All others are looked at every so many ticks."""
TABLES = 25
"""Tables of pages are counted every so many ticks."""
ORDINARY_TABLES_KB = 1024
BLIND_SECONDS = 1.0
NEAR = 0.8
"""From this part of the limit on, pages that processes share are divided among them."""
SCRATCH_SECONDS = 2.0
"""Between two measurements of a folder."""
MOST = 100_000
"""Files of a folder, or processes of a worker, that are counted at most."""
_measuring = anyio.CapacityLimiter(1)
PAGE_KB = os.sysconf("SC_PAGE_SIZE") // 1024


class Watch:
    """One loop over all workers."""

    def __init__(self) -> None:
        self._watched: set[_Watched] = set()
        self._ticks = 0

    @contextmanager
    def over(self, guard: int, limits: Limits, threads: bool, full: Callable[[str], None]) -> Iterator[None]:
        """Watch a worker; `full` is called with the reason when it passes a limit.

        `threads` is whether they are to be counted as processes, where the kernel does not do that for each worker.
        """
        watched = _Watched(guard, limits, threads, full)
        self._watched.add(watched)
        try:
            yield
        finally:
            self._watched.discard(watched)

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            await anyio.sleep(TICK)
            self._ticks += 1
            try:
                self._look()
            except OSError as error:  # no descriptor is free: it will not be so for long
                logger().error("watch.blind", reason=error.strerror)
                await anyio.sleep(BLIND_SECONDS)

    def _look(self) -> None:
        """Look at those whose turn it is."""
        calm = self._ticks % CALM == 0
        newest = Path("/proc/loadavg").read_bytes().rpartition(b" ")[2]  # the last process that this host has started
        for each in list(self._watched):
            if (calm or each.hurried) and (reason := each.look(newest, tables=self._ticks % TABLES == 0)):
                each.full(reason)


class _Watched:
    """A worker's processes."""

    def __init__(self, guard: int, limits: Limits, threads: bool, full: Callable[[str], None]) -> None:
        self.full = full
        self.hurried = False
        self._guard = guard
        self._limits = limits
        self._threads = threads
        self._newest = b""
        self._pids: list[int] = []
        self._least_kb = 1 << 62
        self._tables_kb = 0

    def look(self, newest: bytes, *, tables: bool) -> str:
        """Return which limit it has passed; empty for none. With `tables`, those of its pages are counted anew."""
        if newest != self._newest:  # else nobody on this host has started a process since
            self._newest = newest
            self._pids = _below(self._guard)
        limits, most_kb = self._limits, self._limits.memory_mb * 1024
        if tables:
            self._tables_kb = sum(map(_of_tables_kb, self._pids))
        taken_kb = sum(map(_resident_kb, self._pids)) + self._tables_kb
        self._least_kb = min(self._least_kb, taken_kb)  # most of which it shares with its zygote
        self.hurried = taken_kb > self._least_kb + most_kb / 4
        if taken_kb > most_kb * NEAR and sum(map(_share_kb, self._pids)) + self._tables_kb > most_kb:
            return f"out of memory at {limits.memory_mb} MB"
        if len(self._pids) > limits.processes or (self._threads and sum(map(_tasks, self._pids)) > limits.processes):
            return f"more than {limits.processes} processes"
        return ""


def _below(pid: int) -> list[int]:
    found = [pid]
    for each in found:
        found += children(each)  # grows while it is walked
        if len(found) > MOST:
            break
    return found


def _resident_kb(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/statm", "rb", buffering=0) as file:
            return int(file.read(100).split()[1]) * PAGE_KB
    except (OSError, IndexError):
        return 0  # it has ended


def _of_tables_kb(pid: int) -> int:
    """What the kernel keeps to find its pages: much, where few of very many are touched. Some is every process's."""
    try:
        with open(f"/proc/{pid}/status", "rb") as file:
            return max(
                0, next(int(line.split()[1]) for line in file if line.startswith(b"VmPTE:")) - ORDINARY_TABLES_KB
            )
    except (OSError, StopIteration):
        return 0


def _share_kb(pid: int) -> int:
    """What a process takes, a page that n processes share being counted as an nth."""
    try:
        with open(f"/proc/{pid}/smaps_rollup", "rb") as file:
            return next(int(line.split()[1]) for line in file if line.startswith(b"Pss:"))
    except (OSError, StopIteration):
        return 0


async def watch_scratch(folder: str, limits: Limits, full: Callable[[str], None]) -> None:
    """Measure a folder on disk until it has more than it may; only a file system in memory has a size of its own."""
    while True:
        if await anyio.to_thread.run_sync(_size, folder, limiter=_measuring) > limits.scratch_mb << 20:
            full(f"more than {limits.scratch_mb} MB in its scratch folder")
            return
        await anyio.sleep(SCRATCH_SECONDS)


def _size(folder: str) -> int:
    """The bytes of the files below a folder; of too many to count, more than any limit."""
    total = count = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            count += 1
            if count > MOST:
                return 1 << 62
            with contextlib.suppress(OSError):
                total += os.lstat(os.path.join(parent, name)).st_blocks * 512
    return total


def tasks_of(uid: int) -> int:
    """Count the tasks of a user, as the limit of processes counts them."""
    return sum(
        _tasks(int(entry.name)) for entry in os.scandir("/proc") if entry.name.isdecimal() and _owner(entry) == uid
    )


def _owner(entry: "os.DirEntry[str]") -> int:
    try:
        return entry.stat().st_uid
    except OSError:
        return -1


def _tasks(pid: int) -> int:
    try:
        return os.stat(f"/proc/{pid}/task").st_nlink - 2
    except OSError:
        return 0
