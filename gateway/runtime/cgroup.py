"""Holds a worker to its memory and its number of processes by a cgroup, where the host lets us make some (v2)."""

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path

import anyio

from gateway.observe.logs import logger
from gateway.policy.agents import Limits

ROOT = Path("/sys/fs/cgroup")
NEEDED = {"memory", "pids"}
OWN = "gateway"
"""The group that the gateway puts itself into: one that has groups below it may hold no process."""
PREFIX = "worker-"
EMPTY_SECONDS = 2.0


@dataclass(frozen=True)
class Groups:
    """The group below which each worker has one of its own."""

    parent: Path

    def make(self, name: str, limits: Limits) -> "Group":
        """Make a group with these limits, with no process in it."""
        path = self.parent / f"{PREFIX}{name}"
        path.mkdir()
        (path / "memory.max").write_text(str(limits.memory_mb << 20))
        with contextlib.suppress(FileNotFoundError):  # a kernel that swaps nothing
            (path / "memory.swap.max").write_text("0")
        (path / "memory.oom.group").write_text("1")
        (path / "pids.max").write_text(str(limits.processes))
        return Group(path, limits.memory_mb)


@dataclass(frozen=True)
class Group:
    """The group of one worker."""

    path: Path
    memory_mb: int

    def take(self, *pids: int) -> None:
        """Put processes into it; what they start from now on is in it too."""
        for pid in pids:
            (self.path / "cgroup.procs").write_text(str(pid))

    @property
    def reason(self) -> str:
        """Why the kernel ended it; empty where it did not."""
        with contextlib.suppress(OSError):
            events = dict(line.split() for line in (self.path / "memory.events").read_text().splitlines())
            if int(events.get("oom_kill", 0)):
                return f"out of memory at {self.memory_mb} MB"
        return ""

    async def remove(self) -> None:
        """Remove it, once the last process is gone."""
        reason: str | None = "it is not empty"
        with anyio.move_on_after(EMPTY_SECONDS, shield=True):
            while self.path.exists():
                try:
                    self.path.rmdir()
                except OSError as error:
                    reason = error.strerror
                    await anyio.sleep(0.01)
        if self.path.exists():
            logger().warning("cgroup.left_behind", path=str(self.path), reason=reason)


def delegated(of: Path = Path("/proc/self/cgroup"), root: Path = ROOT) -> Groups | None:
    """Return where groups can be made; None where the host does not let us, or others are in our group."""
    try:
        own = next(line for line in of.read_text().splitlines() if line.startswith("0::"))
        here = root / own.removeprefix("0::").lstrip("/")
        there = (here / "cgroup.procs").read_text().split()
        if there != [str(os.getpid())] or not set((here / "cgroup.controllers").read_text().split()) >= NEEDED:
            return None
        for left in here.glob(f"{PREFIX}*"):
            left.rmdir()
        (here / OWN).mkdir(exist_ok=True)
        (here / OWN / "cgroup.procs").write_text(there[0])
        (here / "cgroup.subtree_control").write_text(" ".join(f"+{each}" for each in sorted(NEEDED)))
        return Groups(here)
    except (OSError, StopIteration):
        return None
