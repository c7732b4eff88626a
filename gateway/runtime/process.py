"""A worker's process as the gateway holds it: by a descriptor that names no other, whatever ends in between."""

import contextlib
import os
import signal
from pathlib import Path

import anyio

from worker.plan import COMPLAINT, FAILED

END_SECONDS = 7.0
"""How long a zygote has to end all that a worker left: two seconds more than it takes at most."""


class Process:
    """A worker with the process that guards it."""

    def __init__(self, pidfd: int) -> None:
        self._pidfd = pidfd
        self.pid = _pid_of(pidfd)
        """The guarding process, of which the worker is the one child."""
        self._reported = anyio.Event()
        self._status: int | None = None

    def report(self, status: int | None) -> None:
        """Take the zygote's word on how it ended; None where the zygote has ended itself."""
        self._status = status
        self._reported.set()

    async def wait(self) -> str:
        """Wait for the end, and say how it was: `exit code 1`, `killed by SIGKILL`."""
        await anyio.wait_readable(self._pidfd)
        with anyio.move_on_after(END_SECONDS):
            await self._reported.wait()
        return "its zygote ended" if self._status is None else describe(self._status)

    def abandon(self) -> None:
        """Let it be killed, and forget it."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
        os.close(self._pidfd)

    async def end(self) -> None:
        """End the worker and all that it started."""
        with anyio.CancelScope(shield=True):
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
            await self.wait()
            os.close(self._pidfd)


def _pid_of(pidfd: int) -> int:
    """The process's number as the gateway sees it, in whatever namespace it was made."""
    text = Path(f"/proc/self/fdinfo/{pidfd}").read_text()
    return int(next(line.split()[1] for line in text.splitlines() if line.startswith("Pid:")))


def describe(code: int) -> str:
    """Say in words what an exit status means; a guard passes on a signal as 128 + its number."""
    number = -code if code < 0 else code - 128
    if code < 0 or code > 128:
        try:
            return f"killed by {signal.Signals(number).name}"
        except ValueError:
            pass
    return f"exit code {code}"


def complaint(status: str, last: str) -> str:
    """Return what a process said of its walls before it ended for want of them; empty for any other end."""
    return last.removeprefix(COMPLAINT) if status == f"exit code {FAILED}" and last.startswith(COMPLAINT) else ""
