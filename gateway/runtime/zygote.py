"""A running zygote as the gateway sees it: orders go to it, workers and the news of their ends come back."""

import contextlib
import json
import os
import socket
import subprocess
from dataclasses import dataclass

import anyio
import msgspec

from gateway.observe.logs import logger
from gateway.observe.text import printable
from gateway.runtime.host import PYTHON
from gateway.runtime.process import END_SECONDS, Process
from gateway.runtime.worker_log import WorkerLog
from worker.plan import Plan
from worker.warden import sweep

WARM_SECONDS = 60.0
"""How long a zygote may take to be up."""
FORK_SECONDS = 10.0
UNNEEDED_SECONDS = 300.0
"""A zygote whose last worker ended so long ago ends too."""
MESSAGE = 64 << 10

ENVIRON = {"PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8"}
"""What a zygote finds in its environment: nothing of the gateway's own."""


class LaunchError(Exception):
    """A worker could not be started; another try may go well."""


@dataclass(frozen=True)
class Order:
    """What a worker is started with."""

    name: str
    """How the process is called."""
    plan: Plan
    folder: str
    """Its agent folder, as it sees it."""
    environ: dict[str, str]
    listener: int
    """The descriptor of the listening socket."""
    output: int
    """The descriptor for its stdout and stderr."""


class _Up(msgspec.Struct, forbid_unknown_fields=True, tag=True, tag_field="is"):
    """The zygote takes orders."""


class _Forked(msgspec.Struct, forbid_unknown_fields=True, tag=True, tag_field="is"):
    """The worker of an order runs; its process's descriptor comes with this."""

    order: int
    pid: int


class _Refused(msgspec.Struct, forbid_unknown_fields=True, tag=True, tag_field="is"):
    """The worker of an order could not be forked."""

    order: int
    error: str


class _Ended(msgspec.Struct, forbid_unknown_fields=True, tag=True, tag_field="is"):
    """A worker has ended, and nothing is left of it."""

    pid: int
    status: int


_decoder = msgspec.json.Decoder(_Up | _Forked | _Refused | _Ended)


_started: set[int] = set()
"""The processes that the gateway has started and not yet reaped: any other child of it is a stray."""


class Zygote:
    """A running zygote, seen from the gateway."""

    def __init__(self, name: str, plan: Plan, log: WorkerLog, *, warm: bool) -> None:
        self.name = name
        self._log = log
        self._processes: dict[int, Process] = {}
        self._answers: dict[int, tuple[anyio.Event, list[Process | str]]] = {}
        self._orders = 0
        self._sending = anyio.Lock()
        self._up = anyio.Event()
        self.over = False
        """Whether it takes no more orders."""
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._control.setblocking(False)
        with theirs:
            self._popen = subprocess.Popen(
                [*PYTHON, "-m", "worker.boot", str(theirs.fileno()), "zygote"],
                stdin=subprocess.DEVNULL,
                stdout=log.write,
                stderr=log.write,
                env=ENVIRON,
                pass_fds=(theirs.fileno(),),
                start_new_session=True,
            )
        _started.add(self._popen.pid)
        log.close_write()
        self._control.send(json.dumps({"plan": plan.data(), "warm": warm}).encode())

    @property
    def idle(self) -> bool:
        """Whether nobody needs it."""
        return not self._processes and not self._answers

    def dismiss(self) -> None:
        """Let it end: nobody will need it again."""
        self.over = True
        with contextlib.suppress(OSError):
            self._control.shutdown(socket.SHUT_RDWR)

    async def up(self) -> None:
        """Wait until it takes orders.

        Raises:
            LaunchError: if it does not.
        """
        with anyio.move_on_after(WARM_SECONDS):
            await self._up.wait()
        if not self._up.is_set():
            raise LaunchError(f"the zygote of {self.name} was not up within {WARM_SECONDS:g} s")
        if self.over:
            raise LaunchError(f"the zygote of {self.name} ended: {self._log.last or 'it left no word in its log'}")

    async def fork(self, order: Order) -> Process:
        """Start a worker.

        Raises:
            LaunchError: if it cannot be.
        """
        self._orders += 1
        number = self._orders
        message = {
            "order": number,
            "name": order.name,
            "plan": order.plan.data(),
            "folder": order.folder,
            "environ": order.environ,
        }
        done = anyio.Event()
        answer: list[Process | str] = []
        self._answers[number] = done, answer
        try:
            await self._send(json.dumps(message).encode(), [order.listener, order.output])
            with anyio.move_on_after(FORK_SECONDS):
                await done.wait()
        finally:
            del self._answers[number]
        if answer and isinstance(answer[0], Process):
            return answer[0]
        raise LaunchError(str(answer[0]) if answer else f"the zygote of {self.name} did not answer")

    async def _send(self, data: bytes, fds: list[int]) -> None:
        async with self._sending:
            while True:
                try:
                    socket.send_fds(self._control, [data], fds)
                    return
                except BlockingIOError:
                    await anyio.wait_writable(self._control)
                except OSError as error:
                    raise LaunchError(f"the zygote of {self.name} is gone: {error.strerror}") from error

    async def attend(self) -> None:
        """Take its news until it ends, or nobody has needed it for a while; then end all of it."""
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._log.pump)
                while not self.over:
                    with anyio.move_on_after(UNNEEDED_SECONDS):
                        await anyio.wait_readable(self._control)
                        self._take()
                        continue
                    self.over = self.idle
                tasks.cancel_scope.cancel()
        finally:
            await self._end()

    def _take(self) -> None:
        try:
            data, fds, _, _ = socket.recv_fds(self._control, MESSAGE, 4)
        except BlockingIOError:
            return
        except OSError:
            data, fds = b"", []
        try:
            self._heed(data, fds)
        except (msgspec.MsgspecError, LookupError, ValueError, StopIteration, OSError) as error:
            logger().error("zygote.odd", zygote=self.name, error=printable(str(error))[:200])
            self.over = True
        finally:
            for fd in fds:
                os.close(fd)

    def _heed(self, data: bytes, fds: list[int]) -> None:
        if not data:
            self.over = True
            return
        match _decoder.decode(data):
            case _Up():
                self._up.set()
            case _Forked(order, pid):
                process = self._processes[pid] = Process(os.dup(fds[0]))
                self._answer(order, process)
            case _Refused(order, error):
                self._answer(order, printable(error)[:500])
            case _Ended(pid, status):
                self._processes.pop(pid).report(status)

    def _answer(self, order: int, answer: Process | str) -> None:
        if order in self._answers:
            done, into = self._answers[order]
            into.append(answer)
            done.set()
        elif isinstance(answer, Process):
            answer.abandon()  # whoever ordered it has given up

    async def _end(self) -> None:
        """End it with all that it has started, and tell all who wait."""
        self.over = True
        self._up.set()
        logger().info("zygote.end", zygote=self.name, workers=len(self._processes))
        with anyio.CancelScope(shield=True):
            self._control.close()
            if self._popen.poll() is None:
                self._popen.terminate()
                with anyio.move_on_after(END_SECONDS):
                    await _reaped(self._popen)
            if self._popen.poll() is None:
                self._popen.kill()
                await _reaped(self._popen)
        _started.discard(self._popen.pid)
        sweep(spare=_started, patience=0.2)  # a warden that was killed leaves its children to us
        for process in self._processes.values():
            process.report(None)
        for done, _ in self._answers.values():
            done.set()
        self._log.close()


async def _reaped(popen: subprocess.Popen[bytes]) -> None:
    pidfd = os.pidfd_open(popen.pid)
    try:
        while popen.poll() is None:
            await anyio.wait_readable(pidfd)
    finally:
        os.close(pidfd)
