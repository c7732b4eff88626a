"""The system calls of which walls are made and that Python has no names for; standard library only."""

import contextlib
import ctypes
import os
import platform
import struct
from collections.abc import Collection

NEW_MOUNT, NEW_CGROUP, NEW_UTS, NEW_IPC = 0x20000, 0x2000000, 0x4000000, 0x8000000
NEW_USER, NEW_PID, NEW_NET = 0x10000000, 0x20000000, 0x40000000
MOUNT_READ_ONLY, MOUNT_NO_SUID, MOUNT_NO_DEVICES, MOUNT_NO_EXEC = 1, 2, 4, 8  # the same for mount and mount_setattr
_MS_RECURSIVE, _MS_PRIVATE, _MNT_DETACH = 1 << 14, 1 << 18, 2
_AT_FDCWD, _AT_RECURSIVE = -100, 0x8000
_OPEN_TREE_CLONE, _OPEN_TREE_CLOEXEC, _MOVE_EMPTY_PATH = 1, 0o2000000, 4
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_NAME, _PR_CAPBSET_DROP, _PR_SET_SECUREBITS = 1, 4, 15, 24, 28
_PR_SET_CHILD_SUBREAPER, _PR_SET_NO_NEW_PRIVS, _PR_CAP_AMBIENT, _AMBIENT_CLEAR_ALL = 36, 38, 47, 4
_SECUREBITS = 0xEF
"""No uid is root, no set*id gives capabilities, none are kept or raised as ambient; each of them locked."""
_CAPABILITY_VERSION_3 = 0x20080522
_NUMBERS = {
    "x86_64": {"clone": 56, "pivot_root": 155, "capset": 126, "seccomp": 317},
    "aarch64": {"clone": 220, "pivot_root": 41, "capset": 91, "seccomp": 277},
}
"""The calls whose numbers differ between machines."""
_OPEN_TREE, _MOVE_MOUNT, _CLOSE_RANGE, _MOUNT_SETATTR = 428, 429, 436, 442
_LANDLOCK_CREATE, _LANDLOCK_ADD, _LANDLOCK_RESTRICT = 444, 445, 446

_libc = ctypes.CDLL(None, use_errno=True)
_held = ctypes.PyDLL(None, use_errno=True)
"""The same, for a call that must not let go of the interpreter's lock: a fork."""


def _check(result: int, what: str) -> int:
    if result < 0:
        raise OSError(ctypes.get_errno(), f"{what}: {os.strerror(ctypes.get_errno())}")
    return result


def _call(number: int, what: str, *arguments: object) -> int:
    wide = [ctypes.c_long(each) if isinstance(each, int) else each for each in arguments]
    return _check(_libc.syscall(ctypes.c_long(number), *wide), what)


def _number(name: str) -> int:
    try:
        return _NUMBERS[platform.machine()][name]
    except KeyError:
        raise OSError(38, f"{name}: there are no walls for {platform.machine()} yet") from None


# Processes.


def fork_into(namespaces: int) -> int:
    """Fork, the child being in new namespaces of these kinds; in a new one for pids it is the first."""
    if not namespaces:
        return os.fork()
    ctypes.pythonapi.PyOS_BeforeFork()
    pid = int(_held.syscall(ctypes.c_long(_number("clone")), ctypes.c_long(namespaces | 17), *[ctypes.c_long(0)] * 4))
    error = ctypes.get_errno()
    if pid == 0:
        ctypes.pythonapi.PyOS_AfterFork_Child()
        return 0
    ctypes.pythonapi.PyOS_AfterFork_Parent()
    if pid < 0:
        raise OSError(error, f"clone: {os.strerror(error)}")
    return pid


def unshare(namespaces: int) -> None:
    """Move this process into new namespaces of these kinds."""
    _check(_libc.unshare(namespaces), "unshare")


def prctl(option: int, *arguments: int) -> int:
    """Call prctl with plain numbers."""
    rest = [ctypes.c_ulong(each) for each in (*arguments, 0, 0, 0, 0)[:4]]
    return _check(_libc.prctl(option, *rest), f"prctl({option})")


def die_with_parent(parent: int, signum: int) -> None:
    """Ask for a signal when the parent ends; last, for a fork and a change of uid forget it."""
    prctl(_PR_SET_PDEATHSIG, signum)
    if os.getppid() != parent:
        os.kill(os.getpid(), signum)


def adopt_orphans() -> None:
    """From now on, what a descendant leaves behind becomes a child of this process."""
    prctl(_PR_SET_CHILD_SUBREAPER, 1)


def become(uid: int) -> None:
    """Be this user and group for good; only root can."""
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    prctl(_PR_SET_DUMPABLE, 1)  # the change took it, and with it the right to our own files in /proc


def call_process(name: str) -> None:
    """Give this process a name that `ps` and `top` show; of 15 bytes at most."""
    text = ctypes.create_string_buffer(name.encode()[:15])
    _check(_libc.prctl(_PR_SET_NAME, text, 0, 0, 0), "prctl(PR_SET_NAME)")


def close_all_but(keep: Collection[int]) -> None:
    """Close every descriptor above the standard three but these."""
    begin = 3
    for fd in [*sorted(fd for fd in keep if fd > 2), 1 << 31]:
        if fd > begin:
            _call(_CLOSE_RANGE, "close_range", begin, fd - 1, 0)
        begin = fd + 1


# Mounts.


def make_mounts_private() -> None:
    """Let no mount of ours be seen outside, nor theirs here."""
    _mount(None, "/", None, _MS_RECURSIVE | _MS_PRIVATE)


def mount(kind: str, target: str, flags: int = 0, options: str | None = None) -> None:
    """Mount a new file system of a kind."""
    _mount(kind, target, kind, flags, options)


def _mount(source: str | None, target: str, kind: str | None, flags: int, options: str | None = None) -> None:
    texts = [each.encode() if each is not None else None for each in (source, target, kind, options)]
    _check(
        _libc.mount(texts[0], os.fsencode(target), texts[2], ctypes.c_ulong(flags), texts[3]), f"mount {kind} {target}"
    )


def open_tree(path: str) -> int:
    """Return a descriptor of a copy of the mounts at and under a path, mounted nowhere."""
    flags = _OPEN_TREE_CLONE | _OPEN_TREE_CLOEXEC | _AT_RECURSIVE
    return _call(_OPEN_TREE, f"open_tree {path}", _AT_FDCWD, os.fsencode(path), flags)


def move_mount(tree: int, target: str) -> None:
    """Mount what `open_tree` gave."""
    _call(_MOVE_MOUNT, f"move_mount {target}", tree, b"", _AT_FDCWD, os.fsencode(target), _MOVE_EMPTY_PATH)


def restrict_mount(path: str, flags: int, *, below: bool = True) -> None:
    """Set these flags on a mount, and on all below it."""
    attributes = struct.pack("QQQQ", flags, 0, 0, 0)
    at = _AT_RECURSIVE if below else 0
    _call(
        _MOUNT_SETATTR,
        f"mount_setattr {path}",
        _AT_FDCWD,
        os.fsencode(path),
        at,
        ctypes.create_string_buffer(attributes, 32),
        32,
    )


def change_root(root: str) -> None:
    """Make a mounted folder the root, and let go of the old one."""
    os.chdir(root)
    _call(_number("pivot_root"), "pivot_root", b".", b".")
    _check(_libc.umount2(b".", _MNT_DETACH), "umount the old root")
    os.chdir("/")


# Rights.


def drop_capabilities() -> None:
    """Give up every capability, for this process and all that it will ever start."""
    for capability in range(64):
        if _libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0) < 0:
            break  # past the last one, or without the right to: then there is none to be had either
    with contextlib.suppress(OSError):
        prctl(_PR_CAP_AMBIENT, _AMBIENT_CLEAR_ALL)
    with contextlib.suppress(OSError):
        prctl(_PR_SET_SECUREBITS, _SECUREBITS)
    header = struct.pack("Ii", _CAPABILITY_VERSION_3, 0)
    _call(_number("capset"), "capset", ctypes.create_string_buffer(header, 8), ctypes.create_string_buffer(24))


def no_new_privileges() -> None:
    """Let no program that is started give more rights than this process has."""
    prctl(_PR_SET_NO_NEW_PRIVS, 1)


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))


def load_filter(program: bytes) -> None:
    """Put a compiled seccomp filter over this process."""
    buffer = ctypes.create_string_buffer(program, len(program))
    header = _Program(len(program) // 8, ctypes.addressof(buffer))
    _call(_number("seccomp"), "seccomp", 1, 0, ctypes.byref(header))


# Landlock. https://docs.kernel.org/userspace-api/landlock.html has the bits and the ABI that brought each.

FS_EXECUTE, FS_WRITE_FILE, FS_READ_FILE, FS_READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
FS_TRUNCATE = 1 << 14
_FS_BY_ABI = {1: (1 << 13) - 1, 2: 1 << 13, 3: FS_TRUNCATE, 5: 1 << 15}
_NET_BY_ABI = {4: 0b11}
_SCOPE_BY_ABI = {6: 0b11}
READ = FS_EXECUTE | FS_READ_FILE | FS_READ_DIR
WRITE = (1 << 15) - 1 - FS_EXECUTE - (1 << 6) - (1 << 11)
"""All of ABI 3 but to execute, and to make devices."""
OF_A_FILE = FS_EXECUTE | FS_WRITE_FILE | FS_READ_FILE | FS_TRUNCATE
"""The rights that a rule on a file, not a folder, may have."""


def landlock_abi() -> int:
    """The version of Landlock that this kernel has; 0 for none."""
    try:
        return _call(_LANDLOCK_CREATE, "landlock", None, 0, 1)
    except OSError:
        return 0


def landlock(rights: Collection[tuple[str, int]]) -> None:
    """Forbid all that this kernel's Landlock can forbid, but for these rights at and under these paths."""
    abi = landlock_abi()
    handled, net, scope = (
        sum(bits for since, bits in table.items() if since <= abi) for table in (_FS_BY_ABI, _NET_BY_ABI, _SCOPE_BY_ABI)
    )
    attributes = struct.pack("QQQ", handled, net, scope)[: 8 if abi < 4 else 16 if abi < 6 else 24]
    ruleset = _call(
        _LANDLOCK_CREATE, "landlock", ctypes.create_string_buffer(attributes, len(attributes)), len(attributes), 0
    )
    try:
        for path, allowed in rights:
            _allow(ruleset, path, allowed & handled)
        _call(_LANDLOCK_RESTRICT, "landlock", ruleset, 0)
    finally:
        os.close(ruleset)


def _allow(ruleset: int, path: str, rights: int) -> None:
    fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        if not os.path.isdir(path):
            rights &= OF_A_FILE
        rule = struct.pack("=Qi", rights, fd)
        _call(_LANDLOCK_ADD, f"landlock {path}", ruleset, 1, ctypes.create_string_buffer(rule, len(rule)), 0)
    finally:
        os.close(fd)
