"""Without walls every attempt works: what is held in a worker is not held for want of a tool.

As root the control runs in a pid namespace of its own, so that nothing of the host is signalled or traced, once as
root and once as uid 65534. As an ordinary user it runs as that user only.
"""

import errno
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.attacks.attempts import attack_base, attack_runner
else:
    sys.path.insert(0, str(Path(__file__).parent / "attempts"))
    import attack_base
    import attack_runner

HERE = Path(__file__).parent
NOBODY = 65534
IS_ROOT = os.getuid() == 0
USERS = ("root", "nobody") if IS_ROOT else ("self",)
ORDINARY = {
    "become_root_by_setgroups": "needs CAP_SETGID in the parent's user namespace",
    "handle_all_faults": "needs CAP_SYS_PTRACE on the host, unless vm.unprivileged_userfaultfd is 1",
    "load_module": "needs CAP_SYS_MODULE on the host",
    "load_module_file": "needs CAP_SYS_MODULE on the host",
    "make_device": "needs CAP_MKNOD on the host",
    "open_by_handle": "needs CAP_DAC_READ_SEARCH on the host",
    "read_shadow": "is for root and its group to read",
    "unload_module": "needs CAP_SYS_MODULE on the host",
    "write_libraries": "are root's, with the interpreter that is used here",
    "write_proc_sys": "is root's",
    "write_root": "is root's",
}
"""What no ordinary user can do on any host, walls or not."""
OF_INIT = {
    "read_through_root_of_1": "the host's first process is root's",
    "signal_pid_1": "the host's first process is root's",
    "trace_pid_1": "the host's first process is root's",
}
"""What an ordinary user cannot do where the first process is not its own."""


def sysctl(name: str) -> int:
    """A setting of the kernel; 0 where it has none."""
    path = Path("/proc/sys", name)
    return int(path.read_text()) if path.exists() else 0


def has_family(number: int) -> bool:
    """Whether the kernel knows a family of sockets."""
    try:
        socket.socket(number, socket.SOCK_SEQPACKET).close()
    except OSError as answer:
        return answer.errno != errno.EAFNOSUPPORT
    return True


def has_x32() -> bool:
    """Whether the kernel has the third table of calls; 39 is getpid there."""
    try:
        attack_base.syscall_number(0x40000000 | 39, about="getpid")
    except OSError:
        return False
    return True


def host_cannot(user: str) -> dict[str, str]:
    """What this host's kernel does not have, or lets nobody of this kind do."""
    cannot: dict[str, str] = {}
    if not Path("/proc/modules").exists():
        cannot |= dict.fromkeys(("load_module", "load_module_file", "unload_module"), "this kernel has no modules")
    if not has_family(38):
        cannot["socket_alg"] = "this kernel has no AF_ALG"
    if not has_x32():
        cannot["call_as_x32"] = "this kernel has no x32"
    if sysctl("kernel/io_uring_disabled") > (user == "root"):
        cannot["use_io_uring"] = "kernel.io_uring_disabled"
    if user != "root" and sysctl("kernel/perf_event_paranoid") > 2:
        cannot["watch_performance"] = "kernel.perf_event_paranoid"
    return cannot


def cannot(user: str) -> dict[str, str]:
    """What cannot be shown to work as a user on this host, and why."""
    if user == "root":
        return host_cannot(user)
    return ORDINARY | (OF_INIT if user == "self" else {}) | host_cannot(user)


def command(user: str, folder: Path) -> list[str]:
    """The control's command: a shell, so that the attacked process has a parent of the same user outside of it."""
    python = shutil.which("python3", path="/usr/bin:/bin") or sys.executable
    line = ["sh", "-c", f"{python} -I {folder}/attacks/control.py; exit $?"]
    apart = ["unshare", "--pid", "--ipc", "--fork", "--kill-child", "--mount-proc"]
    other = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
    return {"root": apart + line, "nobody": apart + other + line, "self": line}[user]


@pytest.fixture(scope="module")
def controls() -> Iterator[dict[str, Any]]:
    """What the controls found, by user; they run side by side."""
    with tempfile.TemporaryDirectory(prefix="control-", dir="/tmp") as folder:
        os.chmod(folder, 0o755)  # noqa: S103  # the other user has to find its way in
        shutil.copytree(HERE, Path(folder) / "attacks", ignore=shutil.ignore_patterns("__pycache__", "test_*"))
        running = {
            user: subprocess.Popen(
                command(user, Path(folder)), cwd="/", stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
            )
            for user in USERS
        }
        said = {user: process.communicate(timeout=100)[0] for user, process in running.items()}
        assert not any(process.returncode for process in running.values()), "see its standard error above"
        yield {user: json.loads(text) for user, text in said.items()}


@pytest.fixture(params=["root", "nobody", "self"])
def user(request: pytest.FixtureRequest) -> str:
    """Each user that the control can run as here."""
    if request.param not in USERS:
        pytest.skip("needs root" if not IS_ROOT else "is for ordinary users")
    return str(request.param)


@pytest.mark.parametrize("way", ["here", "exec"])
def test_every_attempt_works_without_walls(controls: dict[str, Any], user: str, way: str) -> None:
    """In the process itself and from an exec'd child; what cannot is named, with its reason."""
    outcomes: dict[str, str] = controls[user][way]
    not_open = {name: text for name, text in outcomes.items() if not text.startswith("open: ")}
    assert {name: text for name, text in not_open.items() if name not in cannot(user)} == {}
    if IS_ROOT:
        assert set(cannot(user)) & set(outcomes) == set(not_open), "what is named as impossible has worked"


def test_attempts_do_no_harm(controls: dict[str, Any], user: str) -> None:
    """The victims live and listen afterwards, and scratch is empty again."""
    assert controls[user]["alive"]
    assert controls[user]["left"] == []


def test_what_is_named_exists() -> None:
    """A reason for an attempt that is no more is noticed here."""
    assert {*ORDINARY, *OF_INIT} <= set(attack_runner.NAMES)


def odd(work: attack_base.Try, *held: int, killed: tuple[int, ...] = ()) -> str:
    """The outcome of an attempt that is made for one test."""
    attack_base.attempt(*held, killed=killed, name="odd")(work)
    try:
        return attack_runner.run(["odd"], attack_base.Target())["odd"]
    finally:
        for each in (attack_base.ATTEMPTS, attack_base.FAMILY, attack_base.KILLED):
            each.pop("odd", None)


def raises(error: BaseException) -> attack_base.Try:
    """An attempt that ends with an error."""

    def work(_: attack_base.Target) -> str:
        raise error

    return work


def ends(number: int) -> attack_base.Try:
    """An attempt that is ended by a signal."""

    def work(target: attack_base.Target) -> str:
        os.kill(os.getpid(), number)
        return sleeps(target)

    return work


def sleeps(_: attack_base.Target) -> str:
    """An attempt that takes too long."""
    time.sleep(5)
    return "slept"


def test_held_is_only_what_was_said_to_be_a_refusal() -> None:
    """Another errno, another exception, another signal, and too long a time are errors, never held."""
    assert odd(lambda _: "proof") == "open: proof"
    assert odd(raises(PermissionError(errno.EPERM, "no")), errno.EPERM) == "held: EPERM no"
    assert odd(raises(OSError(errno.EINVAL, "odd")), errno.EPERM) == "error: EINVAL odd"
    assert odd(raises(ValueError("bug")), errno.EPERM) == "error: ValueError: bug"
    assert odd(raises(KeyboardInterrupt()), errno.EPERM) == "error: KeyboardInterrupt:"
    assert odd(ends(signal.SIGKILL), killed=(signal.SIGKILL,)) == "held: killed by SIGKILL"
    assert odd(ends(signal.SIGKILL)) == "error: the child ended with -9"


def test_an_attempt_has_a_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing within it is an error too."""
    monkeypatch.setattr(attack_runner, "DEADLINE", 0.1)
    assert odd(sleeps, killed=(signal.SIGKILL,)) == "error: nothing within 0.1 s"
