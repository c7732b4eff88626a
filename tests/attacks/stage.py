"""The outside that attempts are aimed at: victims, their files and listeners; runs beside the tests, never in a worker.

As a program it is the victim: a stand-in for the gateway, with the secret in its environment and memory.
"""

import contextlib
import ctypes
import json
import os
import selectors
import shutil
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parent / "attempts"))

if TYPE_CHECKING:
    from tests.attacks.attempts.attack_base import Target
else:
    from attack_base import Target

SECRET = "sk-the-gateways-own"
GREETING = b"the outside"
KEPT: deque[socket.socket] = deque(maxlen=32)
"""The last connections, open so that whoever made them may go on."""


@contextlib.contextmanager
def staged(folder: Path) -> Iterator[Target]:
    """Make victims of this uid in a folder (short, as sockets are in it), and a target that names them."""
    for each in ("state", "agents/own", "agents/other", "scratch"):
        (folder / each).mkdir(parents=True)
    (folder / "state" / "key").write_text(SECRET)
    for each in ("own", "other"):
        (folder / "agents" / each / "agent.py").write_text(f"# of {each}\n")
    with contextlib.ExitStack() as stack:
        victim = stack.enter_context(_running([sys.executable, "-I", __file__, str(folder)], SECRET=SECRET))
        assert victim.stdout
        found = json.loads(victim.stdout.readline())
        zygote, outside = (stack.enter_context(_running(["sleep", "300"])) for _ in range(2))
        yield Target(
            secret_file=str(folder / "state" / "key"),
            secret=SECRET,
            other_agent=str(folder / "agents" / "other"),
            own_folder=str(folder / "agents" / "own"),
            scratch=str(folder / "scratch"),
            gateway_pid=victim.pid,
            zygote_pid=zygote.pid,
            outside_pid=outside.pid,
            path_socket=str(folder / "outside.sock"),
            container_socket=str(folder / "docker.sock"),
            **found,
        )


def still_answers(target: Target) -> bool:
    """Whether the victims are alive and listening, without which nothing that was held says anything."""
    for pid in (target.gateway_pid, target.zygote_pid, target.outside_pid):
        if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "SR":
            return False
    unix = (target.path_socket, target.container_socket, f"\0{target.abstract_socket}")
    return all(_greets(socket.AF_UNIX, each) for each in unix) and _greets(
        socket.AF_INET, ("127.0.0.1", target.tcp_port)
    )


def _greets(family: int, address: str | tuple[str, int]) -> bool:
    with socket.socket(family) as one:
        one.settimeout(2)
        one.connect(address)
        return one.recv(20) == GREETING


@contextlib.contextmanager
def _running(command: list[str], **more: str) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, env={**os.environ, **more}
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def victim(folder: Path) -> None:
    """Listen in every way, greet whoever connects, echo every datagram; never ends by itself."""
    kept = ctypes.create_string_buffer(SECRET.encode())
    abstract = f"outside-of-{folder.name}"
    tcp = socket.create_server(("127.0.0.1", 0))
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    udp.bind(("127.0.0.1", 0))
    paths = [_listening(str(folder / name)) for name in ("outside.sock", "docker.sock")]
    found: dict[str, Any] = {
        "memory_address": ctypes.addressof(kept),
        "abstract_socket": abstract,
        "tcp_port": tcp.getsockname()[1],
        "udp_port": udp.getsockname()[1],
    }
    with selectors.DefaultSelector() as selector:
        for each in (tcp, udp, _listening(f"\0{abstract}"), *paths):
            selector.register(each, selectors.EVENT_READ)
        print(json.dumps(found), flush=True)  # noqa: T201 its caller reads it
        while True:
            for key, _ in selector.select():
                assert isinstance(key.fileobj, socket.socket)
                _serve(key.fileobj)


def _listening(path: str) -> socket.socket:
    one = socket.socket(socket.AF_UNIX)
    one.bind(path)
    one.listen()
    return one


def _serve(one: socket.socket) -> None:
    with contextlib.suppress(OSError):
        if one.type == socket.SOCK_DGRAM:
            data, sender = one.recvfrom(100)
            one.sendto(data, sender)
            return
        connection, _ = one.accept()
        connection.sendall(GREETING)
        KEPT.append(connection)


def copy_attempts(into: Path) -> None:
    """Put the modules of the attempts beside an agent's own."""
    for path in (Path(__file__).resolve().parent / "attempts").glob("attack_*.py"):
        shutil.copy(path, into)


if __name__ == "__main__":
    victim(Path(sys.argv[1]))
