"""Compares a worker as the kernel shows it with the plan of its walls, before it is told anything; runs in the gateway.

A worker's own word is not taken: what forks it may run code that is not ours. Landlock is the one wall that the kernel
shows to nobody outside; what it does for a worker with a root of its own, that root does too.
"""

import os
import re
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from worker.plan import Plan, Root
from worker.warden import children

LIMITS = {
    "RLIMIT_AS": "Max address space",
    "RLIMIT_CPU": "Max cpu time",
    "RLIMIT_FSIZE": "Max file size",
    "RLIMIT_DATA": "Max data size",
    "RLIMIT_CORE": "Max core file size",
    "RLIMIT_NPROC": "Max processes",
    "RLIMIT_NOFILE": "Max open files",
    "RLIMIT_MEMLOCK": "Max locked memory",
    "RLIMIT_MSGQUEUE": "Max msgqueue size",
}
"""The limits that plans have, as /proc calls them."""
ALWAYS_MOUNTED = {"/", "/proc"}


class Mismatch(Exception):
    """A process does not stand behind the walls that were planned for it."""


def inspect(guard: int, plan: Plan, uid: int) -> int:
    """Check a guard and the one worker that it has, thread by thread; return the worker's pid.

    Raises:
        Mismatch: at the first thing that is not as planned.
    """
    try:
        below = children(guard)
        if len(below) != 1:
            raise Mismatch(f"{len(below)} processes where one was started")
        for pid in (guard, *below):
            _check(pid, plan, uid)
        if children(below[0]):
            raise Mismatch("it has started processes already")
    except (OSError, LookupError, ValueError) as error:
        raise Mismatch(f"it cannot be looked at: {error}") from error
    return below[0]


def _read(path: str) -> str:
    """The text of a file of /proc; a process calls itself what it likes, in any bytes."""
    return os.fsdecode(Path(path).read_bytes())


def _check(pid: int, plan: Plan, uid: int) -> None:
    for thread in os.listdir(f"/proc/{pid}/task"):
        _check_rights(_read(f"/proc/{pid}/task/{thread}/status"), plan, uid)
    for name in plan.namespaces:
        if os.readlink(f"/proc/{pid}/ns/{name}") == os.readlink(f"/proc/self/ns/{name}"):
            raise Mismatch(f"it shares the namespace {name} with the gateway")
    _check_limits(_read(f"/proc/{pid}/limits"), plan)
    if plan.root:
        _check_mounts(_read(f"/proc/{pid}/mountinfo"), plan.root)


def _check_rights(status: str, plan: Plan, uid: int) -> None:
    fields = dict(line.split(":", 1) for line in status.split("\n") if line)
    if set(fields["Uid"].split()) != {str(uid)}:
        raise Mismatch(f"its user is {fields['Uid'].split()[0]}, not {uid}")
    if plan.bare:
        for name in ("CapInh", "CapPrm", "CapEff", "CapAmb", *(("CapBnd",) if plan.namespaces else ())):
            if int(fields[name], 16):
                raise Mismatch(f"it has capabilities: {name} is {fields[name].strip()}")
        if fields["NoNewPrivs"].strip() != "1":
            raise Mismatch("it can gain privileges")
    if plan.seccomp and (fields["Seccomp"].strip() != "2" or int(fields.get("Seccomp_filters", "1")) < 1):
        raise Mismatch("no filter of system calls is over it")


def _check_limits(text: str, plan: Plan) -> None:
    there = {line[:26].strip(): line[26:].split()[:2] for line in text.strip().split("\n")[1:]}
    for name, soft, hard in plan.limits:
        pairs = zip(there[LIMITS[name]], (soft, hard), strict=True)
        if not all(each.isdecimal() and int(each) <= most for each, most in pairs):
            raise Mismatch(f"its limit {LIMITS[name]!r} is {' to '.join(there[LIMITS[name]])}, not {soft} to {hard}")


def _check_mounts(mountinfo: str, root: Root) -> None:
    writable = {each.path for each in root.memory if each.mb}
    planned = ALWAYS_MOUNTED | {each.target for each in root.binds} | {each.path for each in root.memory}
    seen = set()
    for line in mountinfo.strip().split("\n"):
        where, options = _unescaped(line.split()[4]), set(line.split()[5].split(","))
        seen.add(where)
        if not _within(where, planned):
            raise Mismatch(f"{where} is mounted")
        if where not in writable | {"/proc"} and "ro" not in options:
            raise Mismatch(f"{where} can be written to")
        if "nosuid" not in options:
            raise Mismatch(f"{where} may hold setuid programs")
    if missing := writable - seen:
        raise Mismatch(f"{min(missing)} is not mounted")


def _within(path: str, planned: Iterable[str]) -> bool:
    """Whether a mount is one of those planned, or came along below one that was bound."""
    return path in planned or any(each != "/" and PurePosixPath(path).is_relative_to(each) for each in planned)


def _unescaped(text: str) -> str:
    """Undo how the kernel writes a space, a tab, a line's end and a backslash."""
    return os.fsdecode(re.sub(rb"\\([0-7]{3})", lambda found: bytes([int(found[1], 8)]), os.fsencode(text)))
