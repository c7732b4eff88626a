"""Attempts on the network: to reach what listens outside, to listen, to make sockets of every family."""

import os
import socket
from collections.abc import Callable
from errno import EACCES, ECONNREFUSED, EHOSTUNREACH, EINPROGRESS, ENETDOWN, ENETUNREACH, ENOENT, ENOSYS, EPERM
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.attacks.attempts.attack_base import Target, attempt, with_more_rights
else:
    from attack_base import Target, attempt, with_more_rights

NO_SOCKET = (EACCES, EPERM, ENOSYS)
UNREACHED = (*NO_SOCKET, ECONNREFUSED, ENETUNREACH, EHOSTUNREACH, ENETDOWN)
NEWNET = 0x40000000
MPTCP = 262
FASTOPEN = 0x20000000
METADATA = ("169.254.169.254", 80)
Address = str | tuple[str, int]


def _greeted(family: int, address: Address, kind: int = socket.SOCK_STREAM, protocol: int = 0) -> str:
    """Connect, and say what the listener outside says first."""
    with socket.socket(family, kind, protocol) as one:
        one.settimeout(2)
        one.connect(address)
        return f"{address!r} says {one.recv(20)!r}"


@attempt(*UNREACHED)
def connect_tcp(target: Target) -> str:
    return _greeted(socket.AF_INET, ("127.0.0.1", target.tcp_port))


@attempt(*UNREACHED)
def connect_tcp_mapped(target: Target) -> str:
    return _greeted(socket.AF_INET6, ("::ffff:127.0.0.1", target.tcp_port))


@attempt(*UNREACHED)
def connect_mptcp(target: Target) -> str:
    """Not TCP to Landlock before its eighth ABI."""
    return _greeted(socket.AF_INET, ("127.0.0.1", target.tcp_port), protocol=MPTCP)


@attempt(*UNREACHED)
def connect_by_fast_open(target: Target) -> str:
    """Connects without connect()."""
    with socket.socket() as one:
        one.sendto(b"x", FASTOPEN, ("127.0.0.1", target.tcp_port))
        one.settimeout(2)
        return f"the port says {one.recv(20)!r}"


@attempt(*UNREACHED)
def send_udp(target: Target) -> str:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        one.settimeout(1)
        one.connect(("127.0.0.1", target.udp_port))
        one.send(b"attack")
        try:
            return f"the port answers {one.recv(20)!r}"
        except TimeoutError:
            return "sent, without an answer"


@attempt(*UNREACHED)
def listen_tcp(_: Target) -> str:
    with socket.socket() as one:
        one.bind(("", 0))
        one.listen()
        return f"listens on {one.getsockname()}"


@attempt(*UNREACHED)
def listen_unbound(_: Target) -> str:
    """Listening without bind() takes any free port."""
    with socket.socket() as one:
        one.listen()
        return f"listens on {one.getsockname()}"


@attempt(*UNREACHED)
def bind_udp(_: Target) -> str:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        one.bind(("", 0))
        return f"is bound to {one.getsockname()}"


@attempt(*UNREACHED)
def connect_metadata(target: Target) -> str:
    """Nothing is sent; a connection that is begun is closed at once. Without leave only the socket is made."""
    with socket.socket() as one:
        one.setblocking(False)
        if not target.may_connect_metadata:
            return "a socket that could connect"
        try:
            one.connect(METADATA)
        except OSError as answer:
            if answer.errno != EINPROGRESS:
                raise
    return "the kernel was connecting"


@attempt(*UNREACHED)
def connect_abstract(target: Target) -> str:
    return _greeted(socket.AF_UNIX, f"\0{target.abstract_socket}")


@attempt(*NO_SOCKET, ENOENT)
def connect_path(target: Target) -> str:
    return _greeted(socket.AF_UNIX, target.path_socket)


@attempt(*NO_SOCKET, ENOENT)
def connect_container(target: Target) -> str:
    return _greeted(socket.AF_UNIX, target.container_socket)


@attempt(*NO_SOCKET, ENOENT)
def send_unix_datagram(target: Target) -> str:
    """A datagram socket needs no connection; a stream's address refuses it only after it was found."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as one:
        try:
            one.sendto(b"attack", target.path_socket)
        except OSError as answer:
            if answer.errno in (*NO_SOCKET, ENOENT):
                raise
            return f"the kernel found the socket: {answer}"
    return "sent"


@attempt(*UNREACHED)
def bind_abstract(_: Target) -> str:
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(f"\0attack-{os.urandom(8).hex()}")
        one.listen()
        return f"listens on {one.getsockname()!r}"


@attempt(*NO_SOCKET, ENOENT)
def pass_descriptor_out(target: Target) -> str:
    """A descriptor that is given to an outsider outlives every wall; here one end of a pipe."""
    reading, _ = os.pipe()
    with socket.socket(socket.AF_UNIX) as one:
        one.settimeout(2)
        one.connect(target.path_socket)
        socket.send_fds(one, [b"attack"], [reading])
    return "gave a descriptor away"


def _family(name: str, family: int, kind: int, protocol: int) -> None:
    def make() -> str:
        with socket.socket(family, kind, protocol) as one:
            return f"made {one.family!r}, {one.type!r}"

    def more(_: Target) -> str:
        return with_more_rights(make, NEWNET)

    trying: Callable[[Target], str] = more
    attempt(*NO_SOCKET, name=f"socket_{name}")(trying)


_family("vsock", 40, socket.SOCK_STREAM, 0)
_family("netlink", 16, socket.SOCK_RAW, 0)
_family("netlink_netfilter", 16, socket.SOCK_RAW, 12)
_family("packet", 17, socket.SOCK_RAW, 0)
_family("alg", 38, socket.SOCK_SEQPACKET, 0)
_family("raw", socket.AF_INET, socket.SOCK_RAW, 1)
_family("inet", socket.AF_INET, socket.SOCK_STREAM, 0)
_family("inet6", socket.AF_INET6, socket.SOCK_STREAM, 0)
_family("unix_datagram", socket.AF_UNIX, socket.SOCK_DGRAM, 0)
