"""What is tried under the system call filter, in a process that loads it: a program, standard library only."""

import asyncio
import ctypes
import errno
import fcntl
import json
import mmap
import multiprocessing
import os
import platform
import resource
import select
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import termios
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

LIBC = ctypes.CDLL(None, use_errno=True)
SECCOMP = {"x86_64": 317, "aarch64": 277}


def call_by_libc(function: Callable[[], object]) -> str:
    """Make a call that Python has a name for, and name its answer."""
    try:
        function()
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    return "ok"


def changes(path: str) -> list[str]:
    """Change what can be changed of a file by its path; return what is not as it was."""
    before = os.stat(path)
    os.chmod(path, 0o640)
    os.utime(path, (1, 1))
    shutil.copymode("/", path)
    os.chown(path, os.getuid(), os.getgid())
    after = os.stat(path)
    return [name for name in ("st_mode", "st_mtime", "st_uid") if getattr(before, name) != getattr(after, name)]


def call(number: int, *arguments: int) -> str:
    """Make a system call, and name its answer."""
    wide = [ctypes.c_long(each) for each in (number, *arguments)]
    return "ok" if LIBC.syscall(*wide) >= 0 else errno.errorcode[ctypes.get_errno()]


def load(program: bytes) -> None:
    """Put the filter over this process."""
    held = ctypes.create_string_buffer(program, len(program))
    header = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(held)))
    assert call(SECCOMP[platform.machine()], 1, 0, ctypes.addressof(header)) == "ok"


def answers(calls: list[list[Any]]) -> list[str]:
    """What each of these calls answers; a pointer of -1 leads nowhere."""
    return [call(*each) for each in calls]


def limits_of_the_parent(_: None) -> str:
    """What it answers to be asked about the limits of another process."""
    try:
        resource.prlimit(os.getppid(), resource.RLIMIT_NOFILE)
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    return "ok"


def run_code(code: str) -> int:
    """Run machine code in a thread, and return what it returns."""
    page = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    page.write(bytes.fromhex(code))
    results: list[int] = []
    function = ctypes.CFUNCTYPE(ctypes.c_long)(ctypes.addressof(ctypes.c_char.from_buffer(page)))
    thread = threading.Thread(target=lambda: results.append(function()))
    thread.start()
    thread.join()
    return results[0]


def double(connection: Any) -> None:
    """Answer one number with another; runs in a child of the process under test."""
    connection.send(connection.recv() * 2)


def ask_a_child(method: str) -> None:
    """Start a process the way that is named, and talk to it."""
    context: Any = multiprocessing.get_context(method)
    ours, theirs = context.Pipe()
    child = context.Process(target=double, args=(theirs,))
    child.start()
    ours.send(21)
    assert ours.recv() == 42
    child.join()
    assert child.exitcode == 0


def threads() -> None:
    done: list[int] = []
    started = [threading.Thread(target=done.append, args=(each,)) for each in range(8)]
    for thread in started:
        thread.start()
    for thread in started:
        thread.join()
    assert sorted(done) == list(range(8))


def fork() -> None:
    pid = os.fork()
    if not pid:
        os._exit(7)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7


def run_a_program() -> None:
    run = subprocess.run(["/bin/sh", "-c", "cat; echo done"], input="said ", capture_output=True, text=True, check=True)
    assert run.stdout == "said done\n"


def run_python() -> None:
    run = subprocess.run([sys.executable, "-I", "-c", "print(6 * 7)"], capture_output=True, text=True, check=True)
    assert run.stdout == "42\n"


async def _on_a_loop() -> None:
    await asyncio.sleep(0.001)
    assert await asyncio.to_thread(lambda: 3) == 3
    pipe = asyncio.subprocess.PIPE
    child = await asyncio.create_subprocess_exec("/bin/cat", stdin=pipe, stdout=pipe)
    assert (await child.communicate(b"meow"))[0] == b"meow"


def event_loop() -> None:
    asyncio.run(_on_a_loop())


def event_loop_of_uvloop() -> None:
    import uvloop

    uvloop.run(_on_a_loop())


def multiprocessing_by_spawn() -> None:
    ask_a_child("spawn")


def multiprocessing_by_fork() -> None:
    ask_a_child("fork")


def clocks_and_sleep() -> None:
    start = time.monotonic()
    time.sleep(0.002)
    assert time.monotonic() > start
    assert time.time() > 0


def waiting() -> None:
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    poll = select.epoll()
    poll.register(reader, select.EPOLLIN)
    event = os.eventfd(1)
    os.write(writer, b"x")
    assert poll.poll(1) == [(reader, select.EPOLLIN)]
    assert set(select.select([reader, event], [], [], 1)[0]) == {reader, event}
    assert os.eventfd_read(event) == 1


def stream_pair() -> None:
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with one, other:
        one.sendall(b"hello")
        assert other.recv(9) == b"hello"


def own_limits_and_priority() -> None:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    os.sched_setaffinity(0, os.sched_getaffinity(0))
    os.nice(1)


def files() -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "a")
        path.write_text("x")
        path.chmod(0o600)
        path.rename(path.with_name("b"))
        assert os.listdir(folder) == ["b"]


def descriptors_and_terminals() -> None:
    reader, _ = os.pipe()
    assert fcntl.ioctl(reader, termios.FIONREAD, bytes(4)) == bytes(4)
    assert not os.isatty(reader)
    assert call_by_libc(lambda: os.get_terminal_size(reader)) == "ENOTTY"


def names_of_threads() -> None:
    name = ctypes.create_string_buffer(b"worker", 16)
    assert LIBC.prctl(15, name, 0, 0, 0) == 0
    assert Path("/proc/self/comm").read_text() == "worker\n"


def zeromq_inproc() -> None:
    import zmq

    with zmq.Context() as context, context.socket(zmq.PAIR) as one, context.socket(zmq.PAIR) as other:
        one.bind("inproc://here")
        other.connect("inproc://here")
        one.send(b"hello")
        assert other.recv() == b"hello"


def zeromq_on_the_socket_handed_over() -> None:
    import zmq

    listener, client = HANDED_OVER
    with zmq.Context() as context, context.socket(zmq.STREAM) as stream:
        stream.setsockopt(zmq.USE_FD, listener.detach())
        stream.bind("ipc:///agent-gateway")
        client.sendall(b"hello")
        received = [stream.recv_multipart() for _ in range(2)]
        assert [data for _, data in received] == [b"", b"hello"]
        stream.send_multipart([received[0][0], b"welcome"])
        assert client.recv(99) == b"welcome"


def agents_sdk() -> None:
    import agents

    @agents.function_tool
    def weather(city: str) -> str:
        """Say what the weather is like."""
        return city

    agent = agents.Agent(name="Weather", instructions="Be brief.", tools=[weather])
    assert agent.tools == [weather]


WORKS: dict[str, Callable[[], None]] = {
    each.__name__: each
    for each in (
        *(threads, fork, run_a_program, run_python, event_loop, event_loop_of_uvloop),
        *(multiprocessing_by_spawn, multiprocessing_by_fork, clocks_and_sleep, waiting, stream_pair, files),
        *(own_limits_and_priority, descriptors_and_terminals, names_of_threads, zeromq_inproc),
        *(zeromq_on_the_socket_handed_over, agents_sdk),
    )
}
HANDED_OVER: list[socket.socket] = []
"""A listening socket and a client of it, made before the filter."""


def hand_over() -> None:
    """Make the sockets that the filter would refuse."""
    with tempfile.TemporaryDirectory() as folder:
        listener, client = (socket.socket(socket.AF_UNIX) for _ in range(2))
        listener.bind(f"{folder}/s")
        listener.listen()
        client.connect(f"{folder}/s")
    HANDED_OVER.extend((listener, client))


def all_that_works(_: None) -> dict[str, str]:
    """Do each of the things, and tell how it went."""
    told = {}
    for name, thing in WORKS.items():
        try:
            thing()
        except BaseException as error:  # told to the test
            told[name] = repr(error)
        else:
            told[name] = "ok"
    return told


def main() -> None:
    """Load the filter, if one is given, and do a job under it."""
    job = {each.__name__: each for each in (answers, changes, limits_of_the_parent, run_code, all_that_works)}[
        sys.argv[1]
    ]
    given = json.load(sys.stdin)
    hand_over()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    assert LIBC.prctl(38, ctypes.c_long(1), ctypes.c_long(0), ctypes.c_long(0), ctypes.c_long(0)) == 0
    if given["filter"]:
        load(bytes.fromhex(given["filter"]))
    print(json.dumps(job(given["argument"])))  # noqa: T201


if __name__ == "__main__":
    main()
