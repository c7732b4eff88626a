"""The small process above a worker that sees to it that nothing which the worker started outlives it.

It adopts what the worker's children leave behind, ends all of it when the worker ends, and when the gateway dies.
"""

import contextlib
import ctypes
import os
import signal
import sys
import time
from collections.abc import Collection

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
PATIENCE = 5.0
"""Seconds that the warden fights descendants that fork faster than it kills."""

_libc = ctypes.CDLL(None, use_errno=True)


def guard(keep: int) -> None:
    """Fork: the child returns to become the worker, the parent stays as its warden and never returns."""
    adopt_orphans()
    signal.signal(signal.SIGTERM, _ended)
    warden, gateway = os.getpid(), os.getppid()
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        _die_with(warden, signal.SIGKILL)
        return
    _die_with(gateway, signal.SIGTERM)
    os.close(keep)
    status = _wait(child)
    sweep()
    os._exit(status)


def adopt_orphans() -> None:
    """From now on, what a descendant leaves behind becomes a child of this process."""
    if _libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


def sweep(spare: Collection[int] = (), patience: float = PATIENCE) -> None:
    """Kill and reap every child of this process but these, and what they leave behind, until there is none."""
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        strays = [pid for pid in children() if pid not in spare]
        if not strays:
            return
        for pid in strays:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for pid in strays:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)


def children() -> list[int]:
    """The processes whose parent is this one."""
    me = os.getpid()
    found = []
    for name in os.listdir("/proc"):
        with contextlib.suppress(OSError):
            if name.isdecimal() and _parent(int(name)) == me:
                found.append(int(name))
    return found


def _parent(pid: int) -> int:
    with open(f"/proc/{pid}/stat", "rb") as file:
        return int(file.read().rpartition(b")")[2].split()[1])


def _die_with(parent: int, signum: int) -> None:
    """Ask for a signal when the parent ends; last, for it is forgotten at a fork."""
    _libc.prctl(PR_SET_PDEATHSIG, signum, 0, 0, 0)
    if os.getppid() != parent:
        os.kill(os.getpid(), signum)


def _wait(child: int) -> int:
    """Reap whatever ends until the worker does; return an exit status that says how it ended."""
    while True:
        pid, status = os.waitpid(-1, 0)
        if pid == child:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code


def _ended(*_: object) -> None:
    sweep()
    sys.stderr.flush()
    os._exit(0)
