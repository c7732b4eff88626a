"""The first code in a new interpreter, which walls it in; runs on the untrusted side, standard library only.

    python -I -B -u -X utf8 -m worker.boot FD zygote|trial

FD is a socket to the gateway, whose first message, JSON, has the walls to stand behind or to try.
"""

import json
import os
import signal
import socket
import sys

from worker import trial, walls
from worker.kernel import call_process
from worker.plan import COMPLAINT, FAILED, plan_of
from worker.warden import prepare, watch


def main() -> None:
    """Stay behind as a warden of a process within walls, or try out which walls there can be."""
    control = socket.socket(fileno=int(sys.argv[1]))
    opening = json.loads(control.recv(1 << 20))
    if sys.argv[2] == "trial":
        trial.answer(control, opening)
    else:
        _become_zygote(control, opening)


def _become_zygote(control: socket.socket, opening: dict[str, object]) -> None:
    gateway = os.getppid()
    prepare()
    try:
        plan = plan_of(opening["plan"])  # type: ignore[arg-type]
        walls.settle(plan)
        child = walls.enter(plan, keep=[control.fileno()])
    except walls.WallError as error:
        os.write(2, f"{COMPLAINT}{error}\n".encode())
        os._exit(FAILED)
    if child:
        control.close()
        call_process("agw-warden")
        watch(child, gateway)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    from worker import zygote  # noqa: PLC0415 - behind the walls

    zygote.serve(control, warm=bool(opening["warm"]))


if __name__ == "__main__":
    main()
