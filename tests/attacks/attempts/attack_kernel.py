"""Attempts on the kernel: modules, keys, ids, terminals, handles, and what else has often been a way out."""

import contextlib
import ctypes
import fcntl
import os
import struct
import termios
from collections.abc import Callable
from errno import EACCES, EEXIST, EINVAL, ENOENT, ENOSYS, EPERM, EROFS
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.attacks.attempts.attack_base import Target, asked, attempt, become_root_inside, syscall
else:
    from attack_base import Target, asked, attempt, become_root_inside, syscall
DENIED = (EPERM, EACCES, ENOSYS)


@attempt(*DENIED)
def load_module(_: Target) -> str:
    return asked("init_module", b"garbage", 7, b"")


@attempt(*DENIED)
def load_module_file(_: Target) -> str:
    return asked("finit_module", -1, b"", 0)


@attempt(*DENIED)
def unload_module(_: Target) -> str:
    return asked("delete_module", b"attack_no_such_module", 0o4000)


PROCESS_KEYS = -2


@attempt(*DENIED)
def find_keyring(_: Target) -> str:
    return f"the keyring {syscall('keyctl', 0, PROCESS_KEYS, 1, 0, 0)}"


@attempt(*DENIED)
def add_key(_: Target) -> str:
    return f"the key {syscall('add_key', b'user', b'attack', b'x', 1, PROCESS_KEYS)}"


@attempt(*DENIED)
def request_key(_: Target) -> str:
    return asked("request_key", b"user", b"attack", 0, 0)


@attempt(*DENIED)
def use_bpf(_: Target) -> str:
    """To make a map, or at least to have the kernel look for one."""
    array = struct.pack("5I", 2, 4, 4, 1, 0)
    try:
        return f"made a map: {syscall('bpf', 0, array, len(array))}"
    except OSError:
        nothing = struct.pack("iIQQQ", -1, 0, 0, 0, 0)
        return asked("bpf", 1, nothing, len(nothing))


@attempt(*DENIED)
def use_io_uring(_: Target) -> str:
    return f"a ring: {syscall('io_uring_setup', 1, ctypes.create_string_buffer(120))}"


@attempt(*DENIED)
def handle_faults(_: Target) -> str:
    return f"a handler of faults in user mode: {syscall('userfaultfd', 1)}"


@attempt(*DENIED)
def handle_all_faults(_: Target) -> str:
    return f"a handler of all faults: {syscall('userfaultfd', 0)}"


@attempt(*DENIED)
def watch_performance(_: Target) -> str:
    """The clock of its own process, outside the kernel: what ordinary users are let."""
    event = struct.pack("IIQQQQQ", 1, 64, 0, 0, 0, 0, 1 << 5 | 1 << 6) + bytes(16)
    return f"an event: {syscall('perf_event_open', event, 0, -1, -1, 0)}"


@attempt(*DENIED)
def change_personality(_: Target) -> str:
    return f"addresses are no longer random, before it was {syscall('personality', 0x40000):#x}"


def _as_root(call: Callable[[], str]) -> str:
    """Try as one is, and then mapped to root in a new user namespace."""
    try:
        return call()
    except OSError as refusal:
        try:
            become_root_inside()
        except OSError:
            raise refusal from None
        return f"{call()}, in a new user namespace"


def _become(way: str, *arguments: int) -> None:
    """An id that the namespace does not map is EINVAL."""

    def become() -> str:
        syscall(way, *arguments)
        return f"{way} gave uid {os.getuid()}, gid {os.getgid()}, groups {os.getgroups()}"

    attempt(*DENIED, EINVAL, name=f"become_root_by_{way}")(lambda _: _as_root(become))


_become("setuid", 0)
_become("setgid", 0)
_become("setgroups", 0, 0)


@attempt(*DENIED)
def raise_capabilities(_: Target) -> str:
    header, all_of_them = struct.pack("II", 0x20080522, 0), struct.pack("6I", 1 << 21, 1 << 21, 0, 0, 0, 0)

    def take() -> str:
        syscall("capset", header, all_of_them)
        return "CAP_SYS_ADMIN is there"

    return _as_root(take)


TIOCSTI, TIOCLINUX = 0x5412, 0x541C


def _terminal() -> int:
    """A terminal of its own as the controlling one, where one can be made, else the standard input."""
    try:
        _, terminal = os.openpty()
    except OSError:
        return 0
    with contextlib.suppress(OSError):  # without a session of its own there is still the call itself to try
        if os.getsid(0) != os.getpid():
            os.setsid()
        fcntl.ioctl(terminal, termios.TIOCSCTTY, 0)
    return terminal


def _ioctl(request: int, argument: bytes) -> str:
    """By the call itself, as Python cuts the request to 32 bits."""
    return asked_ioctl(_terminal(), request, argument)


def asked_ioctl(descriptor: int, request: int, argument: bytes) -> str:
    """Any answer but a refusal shows that the kernel was asked."""
    libc = ctypes.CDLL(None, use_errno=True)
    number = 16 if os.uname().machine == "x86_64" else 29
    words = (ctypes.c_long(descriptor), ctypes.c_ulong(request), ctypes.c_char_p(argument))
    if libc.syscall(ctypes.c_long(number), *words) == 0:
        return "it was done"
    if ctypes.get_errno() in DENIED:
        raise OSError(ctypes.get_errno(), "ioctl")
    return f"the kernel looked at it: {os.strerror(ctypes.get_errno())}"


@attempt(*DENIED, ENOENT)
def type_into_terminal(_: Target) -> str:
    return _ioctl(TIOCSTI, b"x")


@attempt(*DENIED, ENOENT)
def type_into_terminal_by_high_bits(_: Target) -> str:
    """The kernel reads 32 bits of the request, a filter 64."""
    return _ioctl(1 << 32 | TIOCSTI, b"x")


@attempt(*DENIED, ENOENT)
def paste_into_terminal(_: Target) -> str:
    return _ioctl(TIOCLINUX, b"\x03")


@attempt(*DENIED, ENOENT)
def type_into_standard_input(_: Target) -> str:
    return asked_ioctl(0, TIOCSTI, b"x")


@attempt(*DENIED, EROFS, EEXIST)
def make_device(target: Target) -> str:
    path = Path(target.scratch) / "attack-device"
    os.mknod(path, 0o20600, os.makedev(1, 1))
    path.unlink()
    return f"made {path}, the host's memory"


@attempt(EACCES, EPERM, ENOENT)
def name_to_handle(target: Target) -> str:
    handle, mount = ctypes.create_string_buffer(136), ctypes.create_string_buffer(4)
    handle[0] = b"\x80"
    syscall("name_to_handle_at", -100, target.scratch.encode(), handle, mount, 0)
    return f"the handle {handle.raw[8 : 8 + handle.raw[0]].hex()}"


@attempt(EACCES, EPERM)
def open_by_handle(target: Target) -> str:
    """A handle may be made up: by it the whole file system is open, whatever the root is."""
    where = os.open(target.scratch, os.O_RDONLY | os.O_DIRECTORY)
    handle = (8).to_bytes(4, "little") + (1).to_bytes(4, "little") + (2).to_bytes(4, "little") + bytes(4)
    try:
        os.close(syscall("open_by_handle_at", where, handle, os.O_RDONLY))
    except OSError as answer:
        if answer.errno in (EACCES, EPERM):
            raise
        return f"the kernel looked at the handle: {answer}"
    return "opened the file system's root by its handle"
