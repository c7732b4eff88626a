"""Compiles the filter of the system calls that a worker may make; runs in the gateway.

A call that is refused by name answers EPERM. One that is refused for its arguments, and any that libseccomp has no name
for, answers ENOSYS as an older kernel would: libraries then go another way. A call of another machine's kind, such as
`int 0x80` on x86_64, kills the process. Whoever loads it has its namespaces, Landlock rules and sockets already.
"""

import errno
import os
from collections.abc import Collection, Iterator
from typing import Any

_DENIED = {
    # Its view of the file system is built before; a mount could bring back what was left out.
    "mounts": "mount umount umount2 pivot_root chroot move_mount open_tree open_tree_attr fsopen fsconfig fsmount"
    " fspick mount_setattr statmount listmount",
    # In a user namespace of its own a process has every capability, and half the kernel to try it on.
    "namespaces": "unshare setns listns",
    # Becoming somebody else, or more than it is.
    "identity": "setuid setgid setreuid setregid setresuid setresgid setfsuid setfsgid setgroups capset"
    " lsm_set_self_attr",
    # The walls are up: another layer could only try out the code that keeps them.
    "walls": "seccomp landlock_create_ruleset landlock_add_rule landlock_restrict_self",
    # Its socket is handed over, bound and listening; no address of any family is for it to choose.
    "sockets": "socket connect bind socketcall",
    # Workers may share a uid, and without a pid namespace they and the gateway see each other.
    "other processes": "ptrace process_vm_readv process_vm_writev process_madvise process_mrelease pidfd_getfd kcmp"
    " perf_event_open",
    # Objects with a name that outlive who made them; without an IPC namespace, the host's.
    "shared objects": "shmget shmat shmctl shmdt msgget msgsnd msgrcv msgctl semget semop semctl semtimedop ipc mq_open"
    " mq_unlink mq_timedsend mq_timedreceive mq_notify mq_getsetattr",
    # Memory that is on no file system whose size is limited.
    "anonymous files": "memfd_create memfd_secret",
    # Keyrings belong to a uid, not to a namespace.
    "keys": "add_key request_key keyctl",
    # Programs inside the kernel, and a way to make other calls that no filter sees.
    "kernel programs": "bpf io_uring_setup io_uring_enter io_uring_register",
    # Stops the kernel in the middle of a copy: what makes a race in it easy to win.
    "user faults": "userfaultfd",
    # A handle opens a file past every folder above it.
    "file handles": "name_to_handle_at open_by_handle_at lookup_dcookie",
    # Device files, and the attributes that ioctl is refused for.
    "nodes and attributes": "mknod mknodat file_getattr file_setattr",
    # What others do with files: told by fanotify, or guessed from what is in the page cache.
    "watching": "fanotify_init fanotify_mark cachestat",
    # On which memory bank pages lie: rarely used, and the source of many faults.
    "memory placement": "mbind set_mempolicy get_mempolicy set_mempolicy_home_node migrate_pages move_pages",
    # Code for the kernel, and the kernel itself.
    "modules": "init_module finit_module delete_module create_module kexec_load kexec_file_load reboot",
    # What belongs to the whole machine.
    "host": "swapon swapoff acct quotactl quotactl_fd sethostname setdomainname syslog vhangup",
    "clocks": "settimeofday clock_settime clock_adjtime adjtimex stime",
    # Other ways to lay out a process, ports, and calls of long ago: no program of today needs one.
    "relics": "personality iopl ioperm modify_ldt vm86 vm86old uselib ustat sysfs _sysctl nfsservctl",
}
DENIED = {family: tuple(names.split()) for family, names in _DENIED.items()}
"""The calls that are refused whatever their arguments: family to names."""

IOCTLS = {
    "TCGETS": 0x5401,
    "TCSETS": 0x5402,
    "TCSETSW": 0x5403,
    "TCSETSF": 0x5404,
    "TCGETS2": 0x802C542A,  # what newer C libraries ask in place of the four above
    "TCSETS2": 0x402C542B,
    "TCSETSW2": 0x402C542C,
    "TCSETSF2": 0x402C542D,
    "TIOCGPGRP": 0x540F,
    "TIOCOUTQ": 0x5411,
    "TIOCGWINSZ": 0x5413,
    "FIONREAD": 0x541B,
    "FIONBIO": 0x5421,
    "FIONCLEX": 0x5450,
    "FIOCLEX": 0x5451,
    "FIOASYNC": 0x5452,
}
"""The requests that ioctl is allowed: what a terminal is like, how a descriptor behaves; not what types into one."""

PRCTLS = {
    "PR_SET_PDEATHSIG": 1,
    "PR_GET_PDEATHSIG": 2,
    "PR_GET_DUMPABLE": 3,
    "PR_SET_DUMPABLE": 4,
    "PR_SET_NAME": 15,
    "PR_GET_NAME": 16,
    "PR_GET_SECCOMP": 21,
    "PR_CAPBSET_READ": 23,
    "PR_GET_SECUREBITS": 27,
    "PR_SET_TIMERSLACK": 29,
    "PR_GET_TIMERSLACK": 30,
    "PR_SET_CHILD_SUBREAPER": 36,
    "PR_GET_CHILD_SUBREAPER": 37,
    "PR_SET_NO_NEW_PRIVS": 38,
    "PR_GET_NO_NEW_PRIVS": 39,
    "PR_SET_THP_DISABLE": 41,
    "PR_GET_THP_DISABLE": 42,
    "PR_SET_VMA": 0x53564D41,
}
"""The options that prctl is allowed."""

NAMESPACE_FLAGS = 0x00020000 | 0x02000000 | 0x04000000 | 0x08000000 | 0x10000000 | 0x20000000 | 0x40000000
"""mount, cgroup, uts, ipc, user, pid, net. No time: where clone3 has that flag, clone has the exit signal."""

SOCKET_OPTIONS = {
    "SO_REUSEADDR": 2,
    "SO_KEEPALIVE": 9,
    "SO_LINGER": 13,
    "SO_PASSCRED": 16,
    "SO_RCVTIMEO": 20,
    "SO_SNDTIMEO": 21,
}
"""The options that may be set on a socket."""

METADATA = (
    *("chmod", "fchmodat", "fchmodat2", "chown", "lchown", "fchownat", "utime", "utimes", "futimesat", "utimensat"),
    *("setxattr", "lsetxattr", "setxattrat", "removexattr", "lremovexattr", "removexattrat", "file_setattr"),
)
"""What changes a file by its path, and Landlock has no right for."""

_LOW_HALF = 0xFFFFFFFF
_TYPE_OF_SOCKET = 0xF  # the rest are flags
_UNIX, _STREAM = 1, 1

Condition = tuple[int, int, int]
"""Of an argument: its index, the bits that count, the value that they must have."""

CONDITIONS: dict[str, tuple[tuple[Condition, ...], ...]] = {
    "clone": (((0, NAMESPACE_FLAGS, 0),),),
    "clone3": (),  # its flags are in memory, where no filter sees them; C libraries fall back to clone
    "socketpair": (((0, _LOW_HALF, _UNIX), (1, _TYPE_OF_SOCKET, _STREAM)),),
    "ioctl": tuple(((1, _LOW_HALF, request),) for request in IOCTLS.values()),
    "prctl": tuple(((0, _LOW_HALF, option),) for option in PRCTLS.values()),
    # Not the size of its buffers: what waits in them is the kernel's memory, counted as nobody's.
    "setsockopt": tuple(((1, _LOW_HALF, 1), (2, _LOW_HALF, option)) for option in SOCKET_OPTIONS.values()),
    # Its own limits only: others with its uid, the gateway too, could be given none to live with, and Landlock lets it.
    "prlimit64": (((0, _LOW_HALF, 0),),),
    # Likewise who gets the processor. libzmq calls sched_setscheduler with the numbers of its threads, and SCHED_OTHER.
    "sched_setscheduler": (((1, _LOW_HALF, 0),),),
    "sched_setattr": (((0, _LOW_HALF, 0),),),
    "sched_setaffinity": (((0, _LOW_HALF, 0),),),
    "setpriority": (((1, _LOW_HALF, 0),),),
    "ioprio_set": (((1, _LOW_HALF, 0),),),
}
"""The calls that are allowed with some arguments only: any one of the alternatives, all its conditions met."""

_NUMBERS = range(1024)
"""Where native calls have their numbers, with room for those to come."""


class FilterError(Exception):
    """The filter cannot be made here; the message says what is missing."""


def compile_filter(*, keep_metadata: bool = False) -> bytes:
    """Return the program of the filter, an array of struct sock_filter for this machine.

    With `keep_metadata` the calls that change modes, times and owners by path do nothing, and say that they have: the
    same user has files outside, the gateway's key among them, and a copy in scratch should not fail for its mode.
    """
    library = _library()
    try:
        return _compile(library, METADATA if keep_metadata else ())
    except OSError as error:
        raise FilterError(f"libseccomp cannot make the system call filter: {error}") from error


def _library() -> Any:
    try:
        import pyseccomp  # type: ignore[import-untyped]  # noqa: PLC0415  # its import fails where there is no libseccomp
    except (ImportError, RuntimeError, OSError, AttributeError) as error:
        raise FilterError(f"no libseccomp for the system call filter, install libseccomp2: {error}") from error
    return pyseccomp


def _compile(library: Any, idle: Collection[str]) -> bytes:
    rules = library.SyscallFilter(library.ERRNO(errno.ENOSYS))
    rules.set_attr(library.Attr.ACT_BADARCH, library.KILL_PROCESS)
    denied = {name for names in DENIED.values() for name in names}
    for number, name in _known(library):
        if name in denied:
            rules.add_rule(library.ERRNO(errno.EPERM), number)
        elif name in idle:
            rules.add_rule(library.ERRNO(0), number)
        elif name in CONDITIONS:
            for conditions in CONDITIONS[name]:
                arguments = [library.Arg(index, library.MASKED_EQ, *bits) for index, *bits in conditions]
                rules.add_rule(library.ALLOW, number, *arguments)
        else:
            rules.add_rule(library.ALLOW, number)
    with os.fdopen(os.memfd_create("filter"), "w+b") as file:
        rules.export_bpf(file)
        file.seek(0)
        return file.read()


def _known(library: Any) -> Iterator[tuple[int, str]]:
    """The native calls that libseccomp has names for."""
    machine = library.system_arch()
    for number in _NUMBERS:
        try:
            yield number, library.resolve_syscall(machine, number).decode()
        except ValueError:
            continue
