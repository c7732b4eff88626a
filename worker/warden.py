"""The small process above others that sees to it that nothing which they started outlives them.

It adopts what they leave behind, ends all of it when the one that it guards ends, and when its own parent dies.
"""

import contextlib
import os
import signal
import sys
import time
from collections.abc import Collection
from typing import NoReturn

from worker.kernel import adopt_orphans, die_with_parent

PATIENCE = 5.0
"""Seconds that the warden fights descendants that fork faster than it kills."""


def guard(parent: int, drop: int) -> None:
    """Fork: the child returns to go on, this process stays as its warden, without a descriptor, and never returns."""
    prepare()
    warden = os.getpid()
    child = os.fork()
    if child:
        os.close(drop)
        watch(child, parent)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    die_with_parent(warden, signal.SIGKILL)


def prepare() -> None:
    """Become a warden, before there is anything to guard."""
    adopt_orphans()
    signal.signal(signal.SIGTERM, _ended)


def watch(child: int, parent: int) -> NoReturn:
    """Wait for the end of a child, or of the parent, end all that there is then, and exit as the child did."""
    die_with_parent(parent, signal.SIGTERM)
    status = _wait(child)
    sweep()
    os._exit(status)


def sweep(spare: Collection[int] = (), patience: float = PATIENCE) -> None:
    """Kill and reap every child of this process but these, and what they leave behind, until there is none."""
    if os.getpid() == 1:
        return  # the kernel ends all of a pid namespace with its first process
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        strays = [pid for pid in children(os.getpid()) if pid not in spare]
        if not strays:
            return
        for pid in strays:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for pid in strays:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)


def children(parent: int) -> list[int]:
    """The processes that any thread of a process has started, or adopted."""
    found: list[int] = []
    with contextlib.suppress(OSError):
        for thread in os.listdir(f"/proc/{parent}/task"):
            with contextlib.suppress(OSError), open(f"/proc/{parent}/task/{thread}/children", "rb") as file:
                found += map(int, file.read().split())
    return found


def _wait(child: int) -> int:
    """Reap whatever ends until the child does; return an exit status that says how it ended."""
    while True:
        pid, status = os.waitpid(-1, 0)
        if pid == child:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code


def _ended(*_: object) -> None:
    sweep()
    sys.stderr.flush()
    os._exit(0)
