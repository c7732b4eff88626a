"""Attempts of a process on its own walls: what it inherited, what it may undo, another table of calls, outliving."""

import contextlib
import ctypes
import importlib
import mmap
import os
import resource
import signal
import socket
import stat
import struct
import sys
import time
from errno import EACCES, EBADF, EINVAL, ENOENT, ENOSYS, EPERM
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.attacks.attempts.attack_base import NEWUSER, Target, attempt, refused, syscall, syscall_number
else:
    from attack_base import NEWUSER, Target, attempt, refused, syscall, syscall_number


@attempt(EBADF)
def inherited_descriptors(target: Target) -> str:
    """Asks for every number, as /proc may not be there."""
    most = min(resource.getrlimit(resource.RLIMIT_NOFILE)[1], 4096)
    given = {0, 1, 2, *target.expected_fds}
    found = [text for text in (_leads_to(each, target) for each in range(most) if each not in given) if text]
    if not found:
        raise refused(EBADF, f"none but {sorted(given)} and what this process made")
    return "; ".join(found)


HARMLESS = {os.makedev(1, minor) for minor in (3, 5, 8, 9)}
"""Null, zero, random and urandom."""


def _leads_to(descriptor: int, target: Target) -> str:
    """What a descriptor is, unless it cannot lead out of this process."""
    try:
        now = os.fstat(descriptor)
    except OSError:
        return ""
    if stat.S_ISDIR(now.st_mode):
        return f"{descriptor} is a folder with {os.listdir(descriptor)[:5]}"
    if stat.S_ISSOCK(now.st_mode):
        return _socket_leads_to(descriptor, target)
    if stat.S_IFMT(now.st_mode) == 0 or now.st_rdev in HARMLESS:  # epoll, events, timers
        return ""
    with contextlib.suppress(OSError):
        return f"{descriptor} is {os.readlink(f'/proc/self/fd/{descriptor}')}"
    return f"{descriptor} is of mode {now.st_mode:o}"


def _socket_leads_to(descriptor: int, target: Target) -> str:
    """A pair that this process or the attacked one has made, such as an event loop's, leads nowhere."""
    with socket.socket(fileno=os.dup(descriptor)) as one:
        if one.family == socket.AF_UNIX:
            peer = struct.unpack("3i", one.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0]
            if peer in (os.getpid(), target.worker_pid) and not one.getsockname():
                return ""
        return f"{descriptor} is a socket of {one.family!r}, named {one.getsockname()!r}"


@attempt(EPERM)
def outlive(target: Target) -> str:
    """Start a process of its own session that should not outlive the worker; it ends by itself after half a minute."""
    between = os.fork()
    if between == 0:
        os.setsid()
        if os.fork() == 0:
            name = target.mark.encode()[:15] + b"\0"
            ctypes.CDLL(None).prctl(15, name, 0, 0, 0)
            os.closerange(0, 256)
            time.sleep(30)
        os._exit(0)
    os.waitpid(between, 0)  # by then it is in a session that nobody ends with this one
    return f"a process named {target.mark} has a session of its own"


@attempt(EPERM, ENOSYS)
def patch_walls(_: Target) -> str:
    """What the walls' module says afterwards changes nothing in a process that is already inside."""
    names: list[str] = []
    with contextlib.suppress(ImportError):  # in the control there is no such module
        walls = importlib.import_module("worker.walls")
        names = [name for name, value in vars(walls).items() if callable(value)]
        for name in names:
            setattr(walls, name, lambda *_args, **_named: None)
    syscall("unshare", NEWUSER)
    return f"made a user namespace, after {len(names)} names of worker.walls were patched"


if os.uname().machine == "x86_64":

    @attempt(EPERM, EACCES, ENOSYS, killed=(signal.SIGSYS, signal.SIGSEGV, signal.SIGKILL))
    def call_as_32_bit(_: Target) -> str:
        """A filter by the numbers of 64 bits reads another call: 310 is unshare here, process_vm_readv there."""
        code = b"\x53\xb8" + struct.pack("<I", 310) + b"\xbb" + struct.pack("<I", NEWUSER) + b"\xcd\x80\x5b\xc3"
        page = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
        page.write(code)
        answer = int(ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(page)))())
        if answer < 0:
            raise refused(-answer, "unshare as 32 bit")
        return "made a user namespace by a call of 32 bits"

    @attempt(EPERM, EACCES, ENOSYS, killed=(signal.SIGSYS,))
    def call_as_x32(_: Target) -> str:
        """The third table of numbers, with the bit that a careless filter does not look at."""
        syscall_number(0x40000000 | 272, NEWUSER, about="unshare as x32")
        return "made a user namespace by a call of x32"


@attempt(EPERM, EINVAL, ENOSYS)
def reset_no_new_privileges(_: Target) -> str:
    refusal: OSError | None = None
    try:
        syscall("prctl", 38, 0, 0, 0, 0)
    except OSError as answer:
        refusal = answer
    if syscall("prctl", 39, 0, 0, 0, 0) == 0:
        return "no_new_privs is 0"
    raise refusal or refused(EPERM, "no_new_privs stays 1")


@attempt(EPERM, EINVAL, EACCES, ENOSYS)
def reset_seccomp(_: Target) -> str:
    refusal: OSError | None = None
    try:
        syscall("prctl", 22, 0, 0, 0, 0)
    except OSError as answer:
        refusal = answer
    if syscall("prctl", 21, 0, 0, 0, 0) == 0:
        return "there is no filter"
    raise refusal or refused(EPERM, "the filter stays")


@attempt(EPERM, EINVAL, ENOENT, EACCES)
def gain_by_setuid_program(_: Target) -> str:
    """A setuid program that is reachable changes the uid unless no_new_privs or the mount says no."""
    if syscall("prctl", 39, 0, 0, 0, 0):
        raise refused(EPERM, "no_new_privs")
    found = [path for folder in ("/usr/bin", "/bin", "/usr/sbin", "/usr/lib") for path in _setuid_in(folder)]
    if not found:
        raise refused(ENOENT, "no setuid program is here")
    may = [path for path in found if not os.statvfs(path).f_flag & os.ST_NOSUID]
    if not may:
        raise refused(EPERM, f"nosuid, on {found[0]}")
    return f"{may[0]} runs as root from {sys.executable}"


def _setuid_in(folder: str) -> list[str]:
    try:
        names = [f"{folder}/{each}" for each in os.listdir(folder)]
        return [each for each in names if os.path.isfile(each) and _gives_root(each)]
    except OSError:
        return []


def _gives_root(path: str) -> bool:
    now = os.stat(path)
    return bool(now.st_mode & stat.S_ISUID) and now.st_uid == 0 and os.access(path, os.X_OK)
