"""A process that has imported what every worker needs, and forks one when the gateway asks; single-threaded, always.

On the socket to the gateway it says that it is up, then takes orders, each with two descriptors (the worker's listening
socket, its output), and answers with the descriptor of the process. When a worker has ended it says so. Messages are
JSON; `gateway/runtime/zygote.py` has those that it sends. Pids are those of its own namespace.
"""

import contextlib
import gc
import json
import os
import select
import signal
import socket
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

from worker import walls
from worker.kernel import adopt_orphans, call_process, die_with_parent
from worker.plan import plan_of
from worker.warden import guard, sweep

ORDER = 256 << 10
"""Bytes of an order."""


def serve(control: socket.socket, *, warm: bool) -> None:
    """Warm up, and fork workers until the gateway closes the socket."""
    die_with_parent(os.getppid(), signal.SIGKILL)
    if warm:
        gc.disable()
        from worker.warm import warm_up  # noqa: PLC0415 - the SDK, which takes a second

        warm_up()
    Zygote(control).serve()


class Zygote:
    """The loop: orders in, workers out, and the news of their ends."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._workers: set[int] = set()
        self._wake, self._waker = socket.socketpair()
        for each in (self._wake, self._waker):
            each.setblocking(False)

    def serve(self) -> None:
        """Serve until the gateway is gone."""
        adopt_orphans()
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._waker.fileno(), warn_on_full_buffer=False)
        call_process("agw-zygote")
        self._say({"is": "_Up"})
        while True:
            ready, _, _ = select.select([self._control, self._wake], [], [])
            if self._wake in ready:
                self._wake.recv(4096)
                self._reap()
            if self._control in ready and not self._take():
                return

    def _say(self, message: dict[str, Any], fds: tuple[int, ...] = ()) -> None:
        socket.send_fds(self._control, [json.dumps(message).encode()], list(fds))

    def _take(self) -> bool:
        data, fds, _, _ = socket.recv_fds(self._control, ORDER, 2)
        if not data:
            return False
        order = json.loads(data)
        try:
            pid = self._fork(order, fds)
        except walls.WallError as error:
            self._say({"is": "_Refused", "order": order["order"], "error": str(error)})
            return True
        finally:
            for fd in fds:
                os.close(fd)
        pidfd = os.pidfd_open(pid)
        try:
            self._say({"is": "_Forked", "order": order["order"], "pid": pid}, (pidfd,))
            self._workers.add(pid)
        except OSError as error:  # too many descriptors of this user are under way; not its own worker's fault
            os.kill(pid, signal.SIGKILL)
            self._say({"is": "_Refused", "order": order["order"], "error": f"its descriptor: {error}"})
        finally:
            os.close(pidfd)
        return True

    def _fork(self, order: dict[str, Any], fds: list[int]) -> int:
        plan = plan_of(order["plan"])
        parent = 0 if "pid" in plan.namespaces else os.getpid()
        listener, output = fds
        pid = walls.enter(plan, keep=[listener], output=output)
        if pid == 0:
            _become_worker(order, listener, parent)
        return pid

    def _reap(self) -> None:
        for pid, status in _ended():
            if pid in self._workers:
                self._workers.discard(pid)
                sweep(spare=self._workers)  # what it left behind is adopted by us
                self._say({"is": "_Ended", "pid": pid, "status": os.waitstatus_to_exitcode(status)})


def _ended() -> Iterator[tuple[int, int]]:
    """Reap what has ended: its pid and status."""
    with contextlib.suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            yield ended


def _become_worker(order: dict[str, Any], listener: int, parent: int) -> NoReturn:
    """Leave everything of the zygote behind, and serve the agent until the gateway says stop."""
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        call_process("agw-guard")
        guard(parent, drop=listener)
        os.set_inheritable(listener, False)
        call_process(order["name"])
        gc.enable()
        os.environ.clear()
        os.environ.update(order["environ"])
        os.chdir(order["folder"])
        from worker.serve import serve  # noqa: PLC0415 - what a zygote that is not warm has not yet imported

        serve(listener, Path(order["folder"]))
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
