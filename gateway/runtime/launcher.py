"""Starts a worker process and ends it; the process that the gateway holds is the worker's warden."""

import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import anyio

from worker.warden import sweep

TERM_SECONDS = 6.0
"""How long a warden has to end all that its worker started: one second more than it takes at most."""


@dataclass(frozen=True)
class Launch:
    """What a worker process is started with."""

    folder: Path
    """The snapshot of its agent folder."""
    scratch: Path
    """The one folder that it may write to."""
    listener: int
    """The descriptor of the listening socket."""
    output: int
    """The descriptor for its stdout and stderr."""


def environment(scratch: Path) -> dict[str, str]:
    """Return all that a worker finds in its environment: nothing of the gateway's own."""
    return {
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "LANG": "C.UTF-8",
        "HOME": str(scratch),
        "TMPDIR": str(scratch),
        "OPENAI_API_KEY": "the-gateway-has-the-key",
        "PYTHONUNBUFFERED": "1",
    }


_wardens: set[int] = set()
"""The processes that the gateway has started and not yet reaped: any other child of it is a stray."""


class Process:
    """A running warden with its worker below it."""

    def __init__(self, launch: Launch) -> None:
        command = [sys.executable, "-I", "-B", "-u", "-X", "utf8", "-m", "worker.boot"]
        self._popen = subprocess.Popen(
            [*command, str(launch.listener), str(launch.folder)],
            stdin=subprocess.DEVNULL,
            stdout=launch.output,
            stderr=launch.output,
            cwd=launch.scratch,
            env=environment(launch.scratch),
            pass_fds=(launch.listener,),
            start_new_session=True,
        )
        try:
            self._pidfd = os.pidfd_open(self._popen.pid)
        except OSError:
            self._popen.kill()
            self._popen.wait()
            raise
        _wardens.add(self._popen.pid)

    @property
    def pid(self) -> int:
        """The warden's process id."""
        return self._popen.pid

    async def wait(self) -> str:
        """Wait for the end, and say how it was: `exit code 1`, `killed by SIGKILL`."""
        while self._popen.poll() is None:
            await anyio.wait_readable(self._pidfd)
        return describe(self._popen.returncode)

    async def end(self) -> None:
        """End the worker and all that it started; a warden that cannot is killed."""
        with anyio.CancelScope(shield=True):
            if self._popen.poll() is None:
                self._popen.terminate()
                with anyio.move_on_after(TERM_SECONDS):
                    await self.wait()
            if self._popen.poll() is None:
                self._popen.kill()
                await self.wait()
        os.close(self._pidfd)
        _wardens.discard(self._popen.pid)
        sweep(spare=_wardens, patience=0.2)  # a warden that was killed leaves its worker's children to us


def describe(code: int) -> str:
    """Say in words what an exit status means; a warden passes on a signal as 128 + its number."""
    number = -code if code < 0 else code - 128
    if code < 0 or code > 128:
        try:
            return f"killed by {signal.Signals(number).name}"
        except ValueError:
            pass
    return f"exit code {code}"
