"""Attempts to take more memory than the limit: by one process, by several, in ways that none is charged for."""

import contextlib
import ctypes
import mmap
import os
import signal
import time
from errno import EACCES, EAGAIN, EDQUOT, EFBIG, ENOENT, ENOMEM, ENOSPC, ENOSYS, EPERM, EROFS
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.attacks.attempts.attack_base import NotRefused, Target, attempt, refused, syscall
    from tests.attacks.attempts.attack_disk import MB, fill, folder_in, write
else:
    from attack_base import NotRefused, Target, attempt, refused, syscall
    from attack_disk import MB, fill, folder_in, write

STEP = 16 * MB
HOLD = 0.4
"""For how long too much is held, so that a watch that polls has seen it."""
FULL = (ENOSPC, EDQUOT, EFBIG, EACCES, EROFS)
OUT_OF_MEMORY = (ENOMEM, EAGAIN)
KILL = (signal.SIGKILL,)
SHARED = (signal.SIGKILL, signal.SIGBUS)


def _take(memory: mmap.mmap, size: int) -> None:
    """Touch every page."""
    for start in range(0, size, mmap.PAGESIZE):
        memory[start] = 1


def _fill(size: int, flags: int) -> str:
    """Map and touch step by step, then hold it all."""
    kept = []
    for _ in range(0, size, STEP):
        kept.append(mmap.mmap(-1, STEP, flags=flags | mmap.MAP_ANONYMOUS))
        _take(kept[-1], STEP)
    time.sleep(HOLD)
    return f"holds {len(kept) * STEP // MB} MB"


def _twice(target: Target) -> int:
    return 2 * target.limits["memory_mb"] * MB


@attempt(*OUT_OF_MEMORY, killed=KILL)
def take_memory(target: Target) -> str:
    return _fill(_twice(target), mmap.MAP_PRIVATE)


@attempt(*OUT_OF_MEMORY, killed=SHARED)
def take_shared_memory(target: Target) -> str:
    return _fill(_twice(target), mmap.MAP_SHARED)


@attempt(*OUT_OF_MEMORY, killed=KILL)
def take_memory_in_four(target: Target) -> str:
    """Each stays below the limit, all of them are far above it."""
    each = target.limits["memory_mb"] * 6 * MB // 10
    reading, writing = os.pipe()
    children: list[int] = []
    try:
        children.extend(_eater(each, writing) for _ in range(4))
        os.close(writing)
        with os.fdopen(reading, "rb", buffering=0) as said:
            done = b"".join(iter(lambda: said.read(4), b""))
    finally:
        ends = [_end(pid) for pid in children]
    if done.count(b"x") == 4:
        return f"four hold {4 * each // MB} MB together"
    if b"m" in done:
        raise refused(ENOMEM, f"{done.count(b'm')} of four")
    if signal.SIGKILL in ends:
        raise refused(ENOMEM, f"{ends.count(signal.SIGKILL)} of four were killed")
    raise NotRefused(f"the four said {done!r} and ended with {ends}")


def _eater(size: int, writing: int) -> int:
    pid = os.fork()
    if pid:
        return pid
    try:
        _fill(size, mmap.MAP_PRIVATE)
        time.sleep(HOLD)
        os.write(writing, b"x")
    except (OSError, MemoryError):
        os.write(writing, b"m")
    finally:
        os._exit(0)


def _end(pid: int) -> int:
    """By which signal a child ended, of whom the pipe has heard all."""
    return -min(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), 0)


@attempt(*OUT_OF_MEMORY, *FULL, EPERM, ENOSYS, killed=SHARED)
def take_memory_by_file(target: Target) -> str:
    """Files that are in no file system: no limit of a process counts them together, however small each is."""
    each = target.limits["file_mb"] * MB // 2
    with contextlib.ExitStack() as stack:
        for _ in range(0, _twice(target), each):
            descriptor = syscall("memfd_create", b"attack", 0)
            write(stack.enter_context(os.fdopen(descriptor, "wb", buffering=0)), each)
        time.sleep(HOLD)
    return f"wrote {_twice(target) // MB} MB"


@attempt(*OUT_OF_MEMORY, *FULL, EPERM, ENOENT, killed=SHARED)
def take_memory_by_dev_shm(target: Target) -> str:
    """Many files, as each may have its limit."""
    with folder_in("/dev/shm") as folder:  # noqa: S108 attacked on purpose
        written = fill(folder, _twice(target), target.limits["file_mb"] * MB // 2)
        time.sleep(HOLD)
    return f"wrote {written // MB} MB to /dev/shm"


PRIVATE, REMOVE = 0, 0


@attempt(*OUT_OF_MEMORY, ENOSPC, EPERM, EACCES, ENOSYS, killed=SHARED)
def take_memory_by_system_v(target: Target) -> str:
    size = _twice(target)
    segment = syscall("shmget", PRIVATE, size, 0o1600)
    try:
        where = syscall("shmat", segment, 0, 0)
        syscall("shmctl", segment, REMOVE, 0)  # gone with this process, however it ends
        ctypes.memset(where, 1, size)
        time.sleep(HOLD)
    finally:
        with contextlib.suppress(OSError):
            syscall("shmctl", segment, REMOVE, 0)
    return f"holds {size // MB} MB in a segment"
