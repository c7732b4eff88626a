"""Attempts on namespaces and mounts: another view of the host, or the capabilities to make one."""

import os
import struct
import tempfile
from collections.abc import Callable
from errno import EACCES, ENOSYS, EPERM
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.attacks.attempts.attack_base import NEWNS, NEWUSER, Target, asked, attempt, syscall, with_more_rights
else:
    from attack_base import NEWNS, NEWUSER, Target, asked, attempt, syscall, with_more_rights

DENIED = (EPERM, EACCES, ENOSYS)
SPACES = {
    "mount": NEWNS,
    "cgroup": 0x2000000,
    "uts": 0x4000000,
    "ipc": 0x8000000,
    "user": NEWUSER,
    "pid": 0x20000000,
    "net": 0x40000000,
    "time": 0x80,
}
HERE = -100
DETACHED, EXPIRE = 2, 4


def _either(call: Callable[[int], str], flag: int) -> str:
    """A namespace alone needs capabilities; together with a user namespace it needs none."""
    try:
        return call(flag)
    except OSError:
        return call(flag | NEWUSER)


def _unshare(flags: int) -> str:
    syscall("unshare", flags)
    return f"unshared {flags:#x}"


def _clone(flags: int) -> str:
    pid = syscall("clone", flags | 17, 0, 0, 0, 0)
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    return f"cloned with {flags:#x}"


def _clone3(flags: int) -> str:
    arguments = struct.pack("8Q", flags, 0, 0, 0, 17, 0, 0, 0)
    pid = syscall("clone3", arguments, len(arguments))
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    return f"cloned with {flags:#x}"


def _space(way: str, call: Callable[[int], str], space: str, flag: int) -> None:
    attempt(*DENIED, name=f"{way}_{space}")(lambda _: _either(call, flag))


for _name, _flag in SPACES.items():
    _space("unshare", _unshare, _name, _flag)
    _space("clone3", _clone3, _name, _flag)
    if _name != "time":  # its bit is a part of the signal in clone's flags
        _space("clone", _clone, _name, _flag)


@attempt(*DENIED)
def enter_namespace(_: Target) -> str:
    """Its own one, by a descriptor of its own process."""

    def enter() -> str:
        syscall("setns", os.pidfd_open(os.getpid()), SPACES["uts"])
        return "entered a namespace"

    return with_more_rights(enter, SPACES["uts"])


@attempt(*DENIED)
def mount_tmpfs(target: Target) -> str:
    where = tempfile.mkdtemp(dir=target.scratch).encode()

    def mount() -> str:
        syscall("mount", b"none", where, b"tmpfs", 0, b"size=4k")
        syscall("umount2", where, DETACHED)
        return f"mounted a tmpfs on {where!r}"

    try:
        return with_more_rights(mount)
    finally:
        os.rmdir(where)


@attempt(*DENIED)
def unmount(target: Target) -> str:
    """To expire is to unmount only at the second call."""
    return with_more_rights(lambda: asked("umount2", target.scratch.encode(), EXPIRE))


@attempt(*DENIED)
def pivot(_: Target) -> str:
    """The kernel says that the root is busy, where it looks at all."""
    return with_more_rights(lambda: asked("pivot_root", b"/", b"/"))


@attempt(*DENIED)
def change_root(target: Target) -> str:
    def change() -> str:
        syscall("chroot", target.scratch.encode())
        return f"the root has {os.listdir('/')}"

    return with_more_rights(change)


@attempt(*DENIED)
def clone_tree(_: Target) -> str:
    def clone() -> str:
        return f"a copy of the root's mount: {syscall('open_tree', HERE, b'/', 0x8001)}"

    return with_more_rights(clone)


@attempt(*DENIED)
def open_filesystem(_: Target) -> str:
    return with_more_rights(lambda: f"a tmpfs to configure: {syscall('fsopen', b'tmpfs', 0)}")
