"""Tries walls out on this host, in processes that end at once; standard library only."""

import json
import os
import socket
from collections.abc import Mapping, Sequence
from typing import Any

from worker import kernel, walls
from worker.plan import COMPLAINT, Plan, plan_of


def answer(control: socket.socket, opening: Mapping[str, Any]) -> None:
    """Say for each chain of plans, one within the other, what is wrong with it; empty where it stands."""
    wrong = {
        name: _try([plan_of(each) for each in chain["plans"]], chain["needed"])
        for name, chain in opening["chains"].items()
    }
    control.send(json.dumps({"wrong": wrong, "abi": kernel.landlock_abi()}).encode())


def _try(chain: Sequence[Plan], needed: Sequence[str]) -> str:
    """Put up walls within walls in a child; return what it says."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.dup2(write, 1)
        os.dup2(write, 2)
        try:
            walls.settle(chain[0])
            _stand(chain, needed)
        except walls.WallError as error:
            os.write(2, str(error).encode())
        except BaseException as error:
            os.write(2, f"{type(error).__name__}: {error}".encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        said = pipe.read(4096).decode("utf-8", "replace").strip()
    os.waitpid(pid, 0)
    return said.removeprefix(COMPLAINT)


def _stand(chain: Sequence[Plan], needed: Sequence[str]) -> None:
    """Go in as far as the chain leads, and see whether what a worker needs is seen from there."""
    if not chain:
        for path in needed:
            if not os.access(path, os.R_OK):
                raise walls.WallError(f"user: the user {os.getuid()} of workers cannot read {path}")
        return
    if pid := walls.enter(chain[0], keep=()):
        os.waitpid(pid, 0)
        return
    _stand(chain[1:], needed)
