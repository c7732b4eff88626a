"""Runs attempts by name, each in a forked child with a deadline; as a program it is the exec'd child that does so."""

import contextlib
import importlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parent))

if TYPE_CHECKING:
    from tests.attacks.attempts.attack_base import ATTEMPTS, FAMILY, KILLED, Target, says
else:
    from attack_base import ATTEMPTS, FAMILY, KILLED, Target, says

FAMILIES = ("files", "itself", "kernel", "memory", "network", "processes", "resources", "spaces")
for _each in FAMILIES:
    importlib.import_module(f"attack_{_each}")  # which registers its attempts

NAMES = tuple(ATTEMPTS)
EXPENSIVE = tuple(name for name in NAMES if FAMILY[name] in ("attack_memory", "attack_resources"))
DEADLINE = 20.0


def run(names: list[str], target: Target) -> dict[str, str]:
    """The outcome of each attempt: "open: " and the proof, "held: " and the errno, or "error: " and what went wrong."""
    target = _from_here(target)
    return {name: _one(name, target) for name in names}


def run_in_exec(names: list[str], target: Target) -> dict[str, str]:
    """The same from a child that is exec'd, with an interpreter of its own."""
    target = _from_here(target)
    command = [sys.executable, "-I", str(Path(__file__).resolve()), ",".join(names), target.to_json()]
    try:
        ended = subprocess.run(
            command, close_fds=False, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
        )
    except OSError as refusal:
        return dict.fromkeys(names, f"held: {says(refusal)}, at exec")
    try:
        return dict(json.loads(ended.stdout))
    except ValueError:
        return dict.fromkeys(names, f"error: the child ended with {ended.returncode}: {ended.stderr[-400:]}")


def _from_here(target: Target) -> Target:
    """With this process as the attacked one, where an earlier process has not set itself."""
    if target.worker_pid:
        return target
    return replace(target, worker_pid=os.getpid(), worker_parent=os.getppid())


def _one(name: str, target: Target) -> str:
    """Fork, and wait for one line of outcome, the child's end, or the deadline."""
    reading, writing = os.pipe()
    try:
        pid = os.fork()
    except OSError as refusal:
        os.close(reading)
        os.close(writing)
        return f"error: no child to try it in: {says(refusal)}"
    if pid == 0:
        _try(name, target, reading, writing)
    os.close(writing)
    try:
        return _outcome(name, pid, reading)
    finally:
        os.close(reading)


def _try(name: str, target: Target, reading: int, writing: int) -> None:
    """In the child, in a session of its own: nothing that happens here comes back but the line."""
    try:
        os.close(reading)
        with contextlib.suppress(OSError):
            os.setsid()
        expected = [*target.expected_fds, writing]
        text = ATTEMPTS[name](replace(target, expected_fds=expected))
    except BaseException as bug:
        text = f"error: {type(bug).__name__}: {bug}"
    os.write(writing, text.encode(errors="replace")[:3000].replace(b"\n", b" ") + b"\n")
    os._exit(0)


def _outcome(name: str, pid: int, reading: int) -> str:
    text, status, end = b"", None, time.monotonic() + DEADLINE
    while status is None and time.monotonic() < end:
        if _is_readable(reading, 0.02):
            more = os.read(reading, 4096)
            text += more
            if not more or more.endswith(b"\n"):
                break
        else:
            status = _ended(pid)
    late = time.monotonic() >= end
    status = _finish(pid, status)
    while not text.endswith(b"\n") and _is_readable(reading, 0) and (more := os.read(reading, 4096)):
        text += more
    return text.decode(errors="replace").strip() if text.endswith(b"\n") else _without_words(name, status, late)


def _is_readable(descriptor: int, seconds: float) -> bool:
    return bool(select.select([descriptor], [], [], seconds)[0])


def _without_words(name: str, status: int, late: bool) -> str:
    if late:
        return f"error: nothing within {DEADLINE} s"
    code = os.waitstatus_to_exitcode(status)
    if -code in KILLED[name]:
        return f"held: killed by {signal.Signals(-code).name}"
    return f"error: the child ended with {code}"


def _ended(pid: int) -> int | None:
    """The status of a child that has ended."""
    gone, status = os.waitpid(pid, os.WNOHANG)
    return status if gone else None


def _finish(pid: int, status: int | None) -> int:
    """End what an attempt has left running in its session, and collect it."""
    if status is None:
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGKILL)
        status = os.waitpid(pid, 0)[1]
    with contextlib.suppress(OSError):
        os.killpg(pid, signal.SIGKILL)
    return status


def main() -> None:
    """NAMES (with commas, or "all") and TARGET (as JSON): print the outcomes as JSON."""
    names, text = sys.argv[1:]
    print(json.dumps(run(list(NAMES) if names == "all" else names.split(","), Target.from_json(text))))  # noqa: T201


if __name__ == "__main__":
    main()
