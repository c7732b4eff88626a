"""Attempts to take more than the limits give: processes, descriptors, disk; all bounded and cleaned up."""

import contextlib
import os
import resource
import signal
import time
from errno import EACCES, EAGAIN, EDQUOT, EFBIG, EMFILE, ENOMEM, ENOSPC, EPERM, EROFS
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.attacks.attempts.attack_base import NotRefused, Target, attempt, refused, syscall
    from tests.attacks.attempts.attack_disk import MB, fill, folder_in, write
else:
    from attack_base import NotRefused, Target, attempt, refused, syscall
    from attack_disk import MB, fill, folder_in, write

SLACK = 8
FULL = (ENOSPC, EDQUOT, EFBIG, EACCES, EROFS)
KILL = (signal.SIGKILL,)


@attempt(EAGAIN, ENOMEM, killed=KILL)
def fork_bomb(target: Target) -> str:
    """Three times as many as are given, all asleep."""
    limit = target.limits["processes"]
    children: list[int] = []
    try:
        children.extend(_sleeper() for _ in range(3 * limit))
    except OSError as refusal:
        if len(children) > limit + SLACK:
            raise NotRefused(f"{len(children)} children before the refusal, {limit} are the limit") from None
        raise refused(refusal.errno or 0, f"at {len(children)} children") from None
    finally:
        for pid in children:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
    return f"{len(children)} children at once, where {limit} are the limit"


def _sleeper() -> int:
    pid = os.fork()
    if pid == 0:
        time.sleep(15)
        os._exit(0)
    return pid


@attempt(EMFILE)
def open_many(target: Target) -> str:
    limit = target.limits["open_files"]
    kept: list[int] = []
    with contextlib.suppress(OSError, ValueError):
        most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    try:
        kept.extend(os.dup(2) for _ in range(2 * limit))
    except OSError as refusal:
        if len(kept) > limit:
            raise NotRefused(f"{len(kept)} descriptors before the refusal, {limit} are the limit") from None
        raise refused(refusal.errno or 0, f"at {len(kept)} descriptors") from None
    finally:
        for each in kept:
            os.close(each)
    return f"{len(kept)} descriptors at once, where {limit} are the limit"


@attempt(EPERM)
def raise_limits(target: Target) -> str:
    """The hard ones, by the call itself."""
    numbers = {
        "open_files": resource.RLIMIT_NOFILE,
        "processes": resource.RLIMIT_NPROC,
        "file_mb": resource.RLIMIT_FSIZE,
    }
    units = {"file_mb": MB}
    refusals: list[OSError] = []
    above: list[str] = []
    for name, number in numbers.items():
        limit = target.limits[name] * units.get(name, 1)
        try:
            syscall("prlimit64", 0, number, (2 * limit).to_bytes(8, "little") * 2, 0)
        except OSError as refusal:
            refusals.append(refusal)
        most = resource.getrlimit(number)[1]
        if most == resource.RLIM_INFINITY or most > limit:
            above.append(f"{name} may be {most}, {limit} was given")
    if above:
        return "; ".join(above)
    raise refusals[0] if refusals else NotRefused("no limit was refused, nor is any higher")


@attempt(*FULL)
def write_huge_file(target: Target) -> str:
    size = target.limits["file_mb"] * MB + 2 * MB
    with folder_in(target.scratch) as folder, open(folder / "huge", "wb", buffering=0) as file:
        write(file, size)
        return f"wrote {os.fstat(file.fileno()).st_size // MB} MB, where {target.limits['file_mb']} are the limit"


@attempt(*FULL)
def stretch_file(target: Target) -> str:
    """Without writing."""
    size = target.limits["file_mb"] * MB + 2 * MB
    with folder_in(target.scratch) as folder, open(folder / "long", "wb") as file:
        os.ftruncate(file.fileno(), size)
        return f"a file of {os.fstat(file.fileno()).st_size // MB} MB, where {target.limits['file_mb']} are the limit"


@attempt(*FULL, killed=KILL)
def fill_scratch(target: Target) -> str:
    limit = target.limits["scratch_mb"]
    with folder_in(target.scratch) as folder:
        written = fill(folder, (limit + limit // 4 + 1) * MB, max(target.limits["file_mb"] // 2, 1) * MB)
    return f"wrote {written // MB} MB, where {limit} are the limit"


@attempt(*FULL, killed=KILL)
def make_many_files(target: Target) -> str:
    many = 20_000
    with folder_in(target.scratch) as folder:
        here = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        for number in range(many):
            os.close(os.open(str(number), os.O_CREAT | os.O_WRONLY, 0o600, dir_fd=here))
    return f"made {many} files"
