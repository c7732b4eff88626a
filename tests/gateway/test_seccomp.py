"""Promises of the system call filter, tried in processes that load it."""

import json
import os
import platform
import signal
import socket
import subprocess
import sys
import termios
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gateway.runtime import seccomp
from tests.gateway import filtered

X86_64 = pytest.mark.skipif(platform.machine() != "x86_64", reason="other calls of x86_64 only")
ANYONES = {
    "socket",
    "connect",
    "bind",
    "memfd_create",
    "setuid",
    "setgid",
    "setresuid",
    "setfsuid",
    "capset",
    "seccomp",
} | {
    *("shmget", "shmat", "semget", "semop", "msgget", "msgctl", "mq_open", "mq_unlink", "mknodat"),
}
"""Calls that a kernel has for everyone, and that containers allow: without our filter none of them answers EPERM."""
OFTEN_OFF = {"modules", "host", "kernel programs"}
"""Families that a host may have switched off, for root as well."""


@pytest.fixture(scope="module")
def program() -> bytes:
    """The filter's program."""
    return seccomp.compile_filter()


def start(job: Callable[[Any], Any], argument: object, program: bytes | None) -> subprocess.CompletedProcess[str]:
    """Do a job in a process of its own, under the filter or without; it has no terminal that could be hung up."""
    given = {"argument": argument, "filter": program.hex() if program else ""}
    command = [sys.executable, "-I", "-B", filtered.__file__, job.__name__]
    return subprocess.run(
        command,
        input=json.dumps(given),
        capture_output=True,
        text=True,
        start_new_session=True,
        check=False,
        timeout=30,
    )


def outcome(job: Callable[[Any], Any], argument: object, program: bytes | None) -> Any:
    """What a job that ended well returned."""
    process = start(job, argument, program)
    assert process.returncode == 0, process.stderr
    return json.loads(process.stdout)


def number_of(name: str, machine: int = 0) -> int:
    """The number of a call: -1 where libseccomp has no such name, less where the machine has no such call."""
    import pyseccomp  # type: ignore[import-untyped]

    return int(pyseccomp.resolve_syscall(machine, name))


def has_name(number: int) -> bool:
    """Whether libseccomp knows what call it is on this machine."""
    import pyseccomp

    try:
        return bool(pyseccomp.resolve_syscall(pyseccomp.system_arch(), number))
    except ValueError:
        return False


def names() -> list[str]:
    """The names of all calls that are denied."""
    return [name for family in seccomp.DENIED.values() for name in family]


def test_what_is_denied_by_name_answers_eperm(program: bytes) -> None:
    """Every one that this machine has; where the same call gets further without the filter, it was the filter."""
    harmless = {"msgget": [0x7FFFFFF1, 0], "modify_ldt": [0, 0, 0]}  # where -1 would make a queue, or be unknown
    calls = {name: [number_of(name), *harmless.get(name, [-1] * 6)] for name in names() if number_of(name) >= 0}
    assert len(calls) > 80
    under = dict(zip(calls, outcome(filtered.answers, list(calls.values()), program), strict=True))
    assert {name: answer for name, answer in under.items() if answer != "EPERM"} == {}
    without = dict(zip(calls, outcome(filtered.answers, list(calls.values()), None), strict=True))
    refused = {name for name, answer in without.items() if answer == "EPERM"}
    assert not refused & ANYONES
    if os.geteuid() == 0 and "Seccomp:\t0" in Path("/proc/self/status").read_text():
        assert refused <= {name for family in OFTEN_OFF for name in seccomp.DENIED[family]}


SIGHAND = 0x800  # not without CLONE_VM: the kernel answers EINVAL, and no process comes of what the filter lets through
HIGH = 1 << 32  # the kernel looks at the low half only
NOBODY = 0x7FFFFFFF
UNIX, INET, STREAM, DATAGRAM = (
    int(each) for each in (socket.AF_UNIX, socket.AF_INET, socket.SOCK_STREAM, socket.SOCK_DGRAM)
)
CASES: dict[str, tuple[list[Any], str, str]] = {
    "a mount namespace": (["clone", 0x00020000 | SIGHAND], "EINVAL", "ENOSYS"),
    "a cgroup namespace": (["clone", 0x02000000 | SIGHAND], "EINVAL", "ENOSYS"),
    "a UTS namespace": (["clone", 0x04000000 | SIGHAND], "EINVAL", "ENOSYS"),
    "an IPC namespace": (["clone", 0x08000000 | SIGHAND], "EINVAL", "ENOSYS"),
    "a user namespace": (["clone", 0x10000000 | SIGHAND], "EINVAL", "ENOSYS"),
    "a pid namespace": (["clone", 0x20000000 | SIGHAND], "EINVAL", "ENOSYS"),
    "a network namespace": (["clone", 0x40000000 | SIGHAND], "EINVAL", "ENOSYS"),
    "all namespaces": (["clone", 0x7E020000 | SIGHAND], "EINVAL", "ENOSYS"),
    "no namespace": (["clone", SIGHAND | signal.SIGCHLD], "EINVAL", "EINVAL"),
    "clone3, whose flags are in memory": (["clone3", -1, -1], "E2BIG", "ENOSYS"),
    "a pair of streams": (["socketpair", UNIX, STREAM, 0, -1], "EFAULT", "EFAULT"),
    "a pair of streams with flags": (
        ["socketpair", UNIX, STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, 0, -1],
        "EFAULT",
        "EFAULT",
    ),
    "a pair of datagrams": (["socketpair", UNIX, DATAGRAM, 0, -1], "EFAULT", "ENOSYS"),
    "a pair of packets": (["socketpair", UNIX, int(socket.SOCK_SEQPACKET), 0, -1], "EFAULT", "ENOSYS"),
    "a pair of the internet": (["socketpair", INET, STREAM, 0, -1], "EFAULT", "ENOSYS"),
    "what a terminal is like": (["ioctl", 0, termios.TCGETS, -1], "ENOTTY", "ENOTTY"),
    "the same with a high half": (["ioctl", 0, termios.TCGETS | HIGH, -1], "ENOTTY", "ENOTTY"),
    "typing into a terminal": (["ioctl", 0, termios.TIOCSTI, -1], "ENOTTY", "ENOSYS"),
    "typing with a high half": (["ioctl", 0, termios.TIOCSTI | HIGH, -1], "ENOTTY", "ENOSYS"),
    "pasting into a console": (["ioctl", 0, 0x541C, -1], "ENOTTY", "ENOSYS"),
    "taking a terminal": (["ioctl", 0, termios.TIOCSCTTY, 0], "ENOTTY", "ENOSYS"),
    "another filter by prctl": (["prctl", 22, -1, 0, 0, 0], "EINVAL", "ENOSYS"),
    "another filter with a high half": (["prctl", 22 | HIGH, -1, 0, 0, 0], "EINVAL", "ENOSYS"),
    "keeping capabilities": (["prctl", 8, -1, 0, 0, 0], "EINVAL", "ENOSYS"),
    "asking after a capability": (["prctl", 23, -1, 0, 0, 0], "EINVAL", "EINVAL"),
    "limits of its own": (["prlimit64", 0, -1, 0, 0], "EINVAL", "EINVAL"),
    "limits of others": (["prlimit64", NOBODY, 0, 0, 0], "ESRCH", "ENOSYS"),
    "processors of its own": (["sched_setaffinity", 0, 8, -1], "EFAULT", "EFAULT"),
    "processors of others": (["sched_setaffinity", NOBODY, 8, -1], "EFAULT", "ENOSYS"),
    "priority of others": (["setpriority", 9, NOBODY, 0], "EINVAL", "ENOSYS"),
    "disk priority of others": (["ioprio_set", 9, NOBODY, 0], "EINVAL", "ENOSYS"),
    "schedule of a thread, as ZeroMQ asks": (["sched_setscheduler", NOBODY, 0, -1], "EFAULT", "EFAULT"),
    "idle schedule of others": (["sched_setscheduler", NOBODY, 5, -1], "EFAULT", "ENOSYS"),
    "attributes of the schedule of others": (["sched_setattr", NOBODY, -1, 0], "EFAULT", "ENOSYS"),
    "accepting": (["accept", -1, 0, 0], "EBADF", "EBADF"),
    "accepting with flags": (["accept4", -1, 0, 0, 0], "EBADF", "EBADF"),
    "listening": (["listen", -1, 1], "EBADF", "EBADF"),
    "sending": (["sendmsg", -1, 0, 0], "EBADF", "EBADF"),
    "the name of a socket": (["getsockname", -1, 0, 0], "EBADF", "EBADF"),
    "a signal": (["kill", NOBODY, 0], "ESRCH", "ESRCH"),
    "a number that is no call": ([999], "ENOSYS", "ENOSYS"),
}
"""What is tried, with which arguments, and what answers without the filter and under it."""


@pytest.fixture(scope="module")
def found(program: bytes) -> dict[str, tuple[str, str]]:
    """What each case answered without the filter, and under it."""
    calls = [[number_of(name) if isinstance(name, str) else name, *rest] for (name, *rest), _, _ in CASES.values()]
    pairs = zip(outcome(filtered.answers, calls, None), outcome(filtered.answers, calls, program), strict=True)
    return dict(zip(CASES, pairs, strict=True))


@pytest.mark.parametrize("case", CASES)
def test_some_calls_are_refused_for_their_arguments(case: str, found: dict[str, tuple[str, str]]) -> None:
    """As unknown, with ENOSYS; what is let through has the kernel's own answer."""
    assert found[case] == CASES[case][1:]


def test_modes_and_times_stay_where_files_of_others_can_be_reached(tmp_path: Path) -> None:
    """The calls say that they did it, so that copying goes on, and did nothing."""
    file = tmp_path / "file"
    file.touch(0o600)
    assert outcome(filtered.changes, str(file), seccomp.compile_filter(keep_metadata=True)) == []
    assert outcome(filtered.changes, str(file), seccomp.compile_filter()) == ["st_mode", "st_mtime"]


def test_another_process_keeps_its_limits(program: bytes) -> None:
    """Without the filter a process reaches into one of the same user, by a call that Landlock knows nothing of."""
    assert outcome(filtered.limits_of_the_parent, None, None) == "ok"
    assert outcome(filtered.limits_of_the_parent, None, program) == "ENOSYS"


def test_a_call_that_libseccomp_does_not_know_is_refused(program: bytes) -> None:
    """A kernel that is newer than libseccomp has calls that nobody decided on: they are not let through."""
    younger = range(424, 1100)  # one numbering for all machines; x86_64's uretprobe, 335, passes by every filter
    unknown = [[number, *[-1] * 6] for number in younger if not has_name(number)]
    assert len(unknown) > 500
    assert set(outcome(filtered.answers, unknown, program)) == {"ENOSYS"}


@X86_64
@pytest.mark.parametrize(
    ("code", "without"),
    [
        ("b814000000cd80c3", {0, -signal.SIGSEGV}),  # getpid of 32 bits by int 0x80; a kernel may have none
        ("b8270000400f05c3", {0}),  # getpid of x32; where there is none, it is unknown
    ],
)
def test_calls_of_another_kind_kill_the_process(code: str, without: set[int], program: bytes) -> None:
    """Their numbers mean other calls: not the thread alone that made one, but the whole process ends."""
    assert start(filtered.run_code, code, None).returncode in without
    assert start(filtered.run_code, code, program).returncode == -signal.SIGSYS


@pytest.fixture(scope="module")
def worked(program: bytes) -> dict[str, str]:
    """How all that should work went under the filter."""
    told: dict[str, str] = outcome(filtered.all_that_works, None, program)
    return told


@pytest.mark.parametrize("thing", filtered.WORKS)
def test_what_agents_need_works(thing: str, worked: dict[str, str]) -> None:
    """Threads, processes, loops, waiting, ZeroMQ on the socket that was handed over, and the SDK."""
    assert worked[thing] == "ok"


def test_every_name_is_that_of_a_call() -> None:
    """A slip of the pen would let a call through; libseccomp 2.5 knows all but the youngest."""
    youngest = {
        "statmount",
        "listmount",
        "listns",
        "open_tree_attr",
        "lsm_set_self_attr",
        "file_getattr",
        "file_setattr",
    }
    assert len(names()) == len(set(names()))
    assert {name for name in names() if number_of(name) == -1} <= youngest


@pytest.mark.parametrize("machine", ["X86_64", "AARCH64"])
def test_calls_with_conditions_exist_on_both_machines(machine: str) -> None:
    """A name that one of them had no number for would be refused there, or not be filtered at all."""
    import pyseccomp

    arch = getattr(pyseccomp.Arch, machine)
    assert [name for name in seccomp.CONDITIONS if number_of(name, arch) < 0] == []


def test_requests_have_their_numbers() -> None:
    """The numbers of ioctl are those of the C library's headers."""
    known = {name: getattr(termios, name) for name in seccomp.IOCTLS if hasattr(termios, name)}
    assert len(known) > 8
    assert known == {name: seccomp.IOCTLS[name] for name in known}


def test_the_program_fits_the_kernel(program: bytes) -> None:
    """The kernel takes 4096 instructions of eight bytes; the same filter comes out every time."""
    assert len(program) % 8 == 0
    assert len(program) // 8 < 1024
    assert seccomp.compile_filter() == program


def test_without_libseccomp_there_is_no_filter(monkeypatch: pytest.MonkeyPatch) -> None:
    """The failure says what to install."""
    monkeypatch.delitem(sys.modules, "pyseccomp", raising=False)
    monkeypatch.setattr("ctypes.util.find_library", lambda name: None if name == "seccomp" else "libc.so.6")
    with pytest.raises(seccomp.FilterError, match="install libseccomp2"):
        seccomp.compile_filter()
