"""What attempts are made of: the target, the registry, raw system calls; runs in a worker, and in the control."""

import ctypes
import errno
import json
import os
import platform
from collections.abc import Callable
from dataclasses import asdict, dataclass, field

LIMITS = {"memory_mb": 128, "processes": 64, "open_files": 256, "file_mb": 16, "scratch_mb": 64}


@dataclass
class Target:
    """What the test has prepared outside for the attempts to reach for, and what the worker was given."""

    secret_file: str = ""
    secret: str = ""
    other_agent: str = ""
    own_folder: str = ""
    scratch: str = ""
    gateway_pid: int = 0
    zygote_pid: int = 0
    outside_pid: int = 0
    memory_address: int = 0
    """Where in the gateway's memory the secret lies."""
    abstract_socket: str = ""
    path_socket: str = ""
    container_socket: str = ""
    tcp_port: int = 0
    udp_port: int = 0
    may_connect_metadata: bool = False
    expected_fds: list[int] = field(default_factory=list)
    limits: dict[str, int] = field(default_factory=lambda: dict(LIMITS))
    mark: str = "attack-daemon"
    """The name that an outliving process gives itself, at most 15 characters."""
    worker_pid: int = 0
    """The process that was attacked from, and its parent: filled in by the runner where they are 0."""
    worker_parent: int = 0

    def to_json(self) -> str:
        """The text from which `from_json` makes it again."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Target":
        """The target that a text describes."""
        return cls(**json.loads(text))


Try = Callable[[Target], str]
ATTEMPTS: dict[str, Try] = {}
FAMILY: dict[str, str] = {}
"""The module that an attempt is in."""
KILLED: dict[str, frozenset[int]] = {}
"""By which signals the operating system may end an attempt, to be counted as held."""


class NotRefused(Exception):
    """An attempt went wrong in a way that says nothing about the walls; its text is the outcome after "error: "."""


def attempt(*held: int, killed: tuple[int, ...] = (), name: str = "") -> Callable[[Try], Try]:
    """Register an attempt: its text is the proof that it worked, an OSError with one of these numbers a refusal."""

    def register(function: Try) -> Try:
        called = name or function.__name__
        assert called not in ATTEMPTS, called
        ATTEMPTS[called] = lambda target: _outcome(function, target, frozenset(held))
        FAMILY[called] = function.__module__
        KILLED[called] = frozenset(killed)
        return function

    return register


def _outcome(function: Try, target: Target, held: frozenset[int]) -> str:
    try:
        return f"open: {function(target)}"
    except OSError as refusal:
        return f"{'held' if refusal.errno in held else 'error'}: {says(refusal)}"
    except Exception as bug:
        return f"error: {type(bug).__name__}: {bug}"


def says(refusal: OSError) -> str:
    """The name of an error, and what it was about."""
    code = errno.errorcode.get(refusal.errno or 0, f"without a number, {type(refusal).__name__}")
    about = refusal.filename if refusal.filename is not None else refusal.strerror
    return f"{code} {about}".strip()


def refused(number: int, about: str) -> OSError:
    """An OSError as the kernel would have it."""
    return OSError(number, about)


_X86 = platform.machine() == "x86_64"
_NUMBERS = {
    # name: (x86_64, aarch64)
    "add_key": (248, 217),
    "bpf": (321, 280),
    "capset": (126, 91),
    "chroot": (161, 51),
    "clone": (56, 220),
    "clone3": (435, 435),
    "delete_module": (176, 106),
    "finit_module": (313, 273),
    "fsopen": (430, 430),
    "init_module": (175, 105),
    "io_uring_setup": (425, 425),
    "kcmp": (312, 272),
    "keyctl": (250, 219),
    "memfd_create": (319, 279),
    "mount": (165, 40),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    "open_tree": (428, 428),
    "perf_event_open": (298, 241),
    "personality": (135, 92),
    "pidfd_getfd": (438, 438),
    "pivot_root": (155, 41),
    "prctl": (157, 167),
    "prlimit64": (302, 261),
    "process_vm_readv": (310, 270),
    "ptrace": (101, 117),
    "request_key": (249, 218),
    "setgid": (106, 144),
    "setgroups": (116, 159),
    "setns": (308, 268),
    "setuid": (105, 146),
    "shmat": (30, 196),
    "shmctl": (31, 195),
    "shmget": (29, 194),
    "umount2": (166, 39),
    "unshare": (272, 97),
    "userfaultfd": (323, 282),
}
# PyDLL keeps the interpreter's lock, so that a raw clone leaves a child that can go on in Python.
_LIBC = ctypes.PyDLL(None, use_errno=True)
_LIBC.syscall.restype = ctypes.c_long

Argument = int | bytes | ctypes.Array[ctypes.c_char]


def syscall(name: str, *arguments: Argument) -> int:
    """Make a system call by its number; raise what the kernel answers."""
    return syscall_number(_NUMBERS[name][0 if _X86 else 1], *arguments, about=name)


def syscall_number(number: int, *arguments: Argument, about: str) -> int:
    """Make a system call whose number is given."""
    words = [ctypes.c_long(each) if isinstance(each, int) else each for each in arguments]
    words += [ctypes.c_long(0)] * (6 - len(words))
    ctypes.set_errno(0)
    answer = int(_LIBC.syscall(ctypes.c_long(number), *words))
    if answer == -1 and ctypes.get_errno():
        raise OSError(ctypes.get_errno(), about)
    return answer


def asked(name: str, *arguments: Argument) -> str:
    """Make a call with arguments that cannot work: whatever but a refusal shows that the kernel looked at them."""
    try:
        return f"{name} gave {syscall(name, *arguments)}"
    except OSError as answer:
        if answer.errno in (errno.EPERM, errno.EACCES, errno.ENOSYS):
            raise
        return f"the kernel looked at {name}: {says(answer)}"


NEWNS, NEWUSER = 0x20000, 0x10000000


def with_more_rights(call: Callable[[], str], spaces: int = NEWNS) -> str:
    """Try a call as one is, and then with all capabilities of a new user namespace."""
    try:
        return call()
    except OSError as refusal:
        try:
            syscall("unshare", NEWUSER | spaces)
        except OSError:
            raise refusal from None
    return f"{call()}, in a new user namespace"


def become_root_inside() -> None:
    """Map this uid to 0 in the user namespace that one has just made; the walls are not held by its failing."""
    user, group = os.getuid(), os.getgid()
    syscall("unshare", NEWUSER | NEWNS)
    for name, text in (("setgroups", "deny"), ("uid_map", f"0 {user} 1"), ("gid_map", f"0 {group} 1")):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(text)
