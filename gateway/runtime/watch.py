"""Watches what the processes of a worker take together, where the kernel has no group for them; runs in the gateway."""

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import anyio

from gateway.policy.agents import Limits
from worker.warden import children

EVERY, HURRY = 0.1, 0.02
"""Seconds between two looks, and when a fourth of the memory is taken."""
NEAR = 0.8
"""From this part of the limit on, shared pages are divided among those who share them."""
SCRATCH_EVERY = 20
"""The folder to write to is measured at every so many looks."""
PAGE_KB = os.sysconf("SC_PAGE_SIZE") // 1024


@dataclass
class Watch:
    """A worker's processes, looked at again and again."""

    guard: int
    limits: Limits
    scratch: str
    """A folder on disk to be measured too; empty where the kernel limits it."""
    full: Callable[[str], None]
    """Called with the reason, when a limit is passed."""
    _looks: int = 0
    _taken_kb: int = 0
    _tree: list[int] = field(default_factory=list)
    _last_pid: bytes = b""

    async def run(self) -> None:
        """Look until a limit is passed."""
        while True:
            if reason := self._look():
                self.full(reason)
                return
            await anyio.sleep(HURRY if self._taken_kb > self.limits.memory_mb * 1024 / 4 else EVERY)

    def _look(self) -> str:
        self._looks += 1
        tree = self._processes()
        limit_kb = self.limits.memory_mb * 1024
        self._taken_kb = sum(map(_resident_kb, tree))
        if self._taken_kb > limit_kb * NEAR:
            self._taken_kb = sum(map(_share_kb, tree))
        if self._taken_kb > limit_kb:
            return f"out of memory at {self.limits.memory_mb} MB"
        if self.scratch and len(tree) > self.limits.processes:
            return f"more than {self.limits.processes} processes"
        if self.scratch and self._looks % SCRATCH_EVERY == 0 and _size(self.scratch) > self.limits.scratch_mb << 20:
            return f"more than {self.limits.scratch_mb} MB in its scratch folder"
        return ""

    def _processes(self) -> list[int]:
        """All below the guard; looked for again only when any process of the host has started since."""
        newest = Path("/proc/loadavg").read_bytes().rpartition(b" ")[2]
        if newest != self._last_pid:
            self._last_pid = newest
            self._tree = _below(self.guard)
        return self._tree


def _below(pid: int) -> list[int]:
    found = [pid]
    for each in found:
        found += children(each)  # grows while it is walked
        if len(found) > 100_000:
            break
    return found


def _resident_kb(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/statm", "rb") as file:
            return int(file.read().split()[1]) * PAGE_KB
    except (OSError, IndexError):
        return 0


def _share_kb(pid: int) -> int:
    """What a process takes, a page that n processes share being counted as an nth."""
    try:
        with open(f"/proc/{pid}/smaps_rollup", "rb") as file:
            return next(int(line.split()[1]) for line in file if line.startswith(b"Pss:"))
    except (OSError, StopIteration):
        return _resident_kb(pid)


def _size(folder: str, most: int = 20_000) -> int:
    """The bytes of the files below a folder; of too many to count, more than any limit."""
    total = count = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            count += 1
            if count > most:
                return 1 << 62
            try:
                total += os.lstat(os.path.join(parent, name)).st_blocks * 512
            except OSError:
                continue
    return total


def tasks_of(uid: int) -> int:
    """Count the tasks of a user, as the limit of processes counts them."""
    return sum(
        _tasks(Path(entry.path)) for entry in os.scandir("/proc") if entry.name.isdecimal() and _owner(entry) == uid
    )


def _owner(entry: "os.DirEntry[str]") -> int:
    try:
        return entry.stat().st_uid
    except OSError:
        return -1


def _tasks(process: Path) -> int:
    try:
        return len(os.listdir(process / "task"))
    except OSError:
        return 0
