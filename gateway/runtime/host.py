"""Finds out what this host gives workers: where their interpreter lies, and which walls stand; runs in the gateway."""

import json
import os
import site
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

import anyio.to_thread

from gateway.errors import StartError
from gateway.policy.agents import Limits
from gateway.runtime import plans
from gateway.runtime.plans import SCOPES_ABI, WORKER_UID, Host, Installed
from gateway.runtime.seccomp import FilterError, compile_filter
from worker import plan

SYSTEM = (
    "/usr/lib",
    "/usr/lib64",
    "/lib",
    "/lib64",
    "/etc/ld.so.cache",
    "/etc/localtime",
    "/etc/ssl/certs",
    "/etc/ssl/openssl.cnf",
    "/etc/pki/ca-trust/extracted",
    "/etc/pki/tls/certs",
    "/usr/share/ca-certificates",
    "/usr/share/zoneinfo",
)
"""Of the system: libraries, and what TLS and the time of day need."""
STAGES = ("/mnt", "/media", "/srv", "/tmp", "/opt", "/home", "/boot", "/var", "/run")  # noqa: S108 - covered by a mount
"""Folders in one of which roots are put together: the first that is there and has nothing in it that workers see."""
TRIAL_SECONDS = 20.0
PYTHON = (sys.executable, "-I", "-B", "-u", "-X", "utf8")
"""The interpreter of workers; nothing of the environment or the working directory gets into it."""


def installed() -> Installed:
    """Find what every worker needs to see."""
    package = Path(plan.__file__).resolve().parent
    lib = f"{sys.base_prefix}/lib"
    wanted = [
        *(each for each in SYSTEM if not os.path.islink(each)),
        *_ways(sys.executable),
        lib,
        os.path.realpath(lib),
        sys.prefix if sys.prefix != sys.base_prefix else f"{sys.prefix}/lib",
        *site.getsitepackages(),
        str(package),
    ]
    shown = _outermost(each for each in wanted if os.path.exists(each))
    hidden = str(Path(__file__).resolve().parents[1])
    seen = any(_covers(each, hidden) for each in shown)
    return Installed(
        shown=tuple(shown),
        links=tuple((each, os.readlink(each)) for each in SYSTEM if os.path.islink(each)),
        hidden=(hidden,) if seen else (),
        around=tuple(part for each in shown for part in _around(each, hidden)),
        stage=next(each for each in STAGES if os.path.isdir(each) and not any(_touch(each, path) for path in shown)),
    )


def _ways(path: str) -> Iterator[str]:
    """Yield the names of a file on the way over its links; each of them is shown as that file."""
    while os.path.islink(path):
        yield path
        path = os.path.normpath(os.path.join(os.path.dirname(path), os.readlink(path)))
    yield path
    yield os.path.realpath(path)


def _outermost(paths: Iterable[str]) -> list[str]:
    """Leave out what lies within another."""
    kept: list[str] = []
    for path in sorted(set(paths), key=len):
        if not any(_covers(each, path) for each in kept):
            kept.append(path)
    return kept


def _touch(one: str, other: str) -> bool:
    return _covers(one, other) or _covers(other, one)


def _covers(folder: str, path: str) -> bool:
    return PurePosixPath(path).is_relative_to(folder)


def _around(tree: str, hole: str) -> list[str]:
    """Return the paths that are a tree but for a hole in it."""
    if not _covers(tree, hole):
        return [tree]
    if tree == hole:
        return []
    return [
        part for entry in sorted(os.scandir(tree), key=lambda each: each.path) for part in _around(entry.path, hole)
    ]


async def survey(seen: Installed, folder: Path, *, off: bool) -> Host:
    """Try out, in processes that end at once and in a folder for it, which walls this host can give.

    Raises:
        StartError: if not even that can be tried.
    """
    if off:
        return Host(off=True)
    uid = WORKER_UID if os.geteuid() == 0 else -1
    try:
        program, no_filter = await anyio.to_thread.run_sync(compile_filter), ""
    except FilterError as error:
        program, no_filter = b"", str(error)
    hosts = {
        "namespaces": Host(uid, namespaces=True, proc=True),
        "namespaces without /proc": Host(uid, namespaces=True),
        "user": Host(uid),
        "landlock": Host(landlock=1),
        "seccomp": Host(seccomp=program),
    }
    said = await anyio.to_thread.run_sync(_survey, hosts, seen, folder)
    host = _judge(said["wrong"], said["abi"], uid, program, no_filter)
    if host.namespaces or not host.seccomp:
        return host
    stricter = await anyio.to_thread.run_sync(lambda: compile_filter(keep_metadata=True))
    return replace(host, seccomp=stricter)


def _survey(hosts: dict[str, Host], seen: Installed, folder: Path) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(dir=folder) as probe:
        Path(probe).chmod(0o755)
        snapshot = Path(probe, "snapshots", "probe")
        snapshot.mkdir(parents=True)
        return _try({name: _chain(host, seen, snapshot, Path(probe)) for name, host in hosts.items()})


def _judge(wrong: dict[str, str], abi: int, uid: int, program: bytes, no_filter: str) -> Host:
    proc = not wrong["namespaces"]
    namespaces = proc or not wrong["namespaces without /proc"]
    missing = {
        "namespaces": "" if namespaces else wrong["namespaces without /proc"],
        "landlock": wrong["landlock"],
        "signals": f"Landlock {abi} is older than {SCOPES_ABI}" if abi < SCOPES_ABI and not namespaces else "",
        "seccomp": no_filter or wrong["seccomp"],
        "user": "" if namespaces else wrong["user"],
    }
    return Host(
        uid,
        namespaces,
        proc,
        landlock=0 if missing["landlock"] else abi,
        seccomp=b"" if missing["seccomp"] else program,
        missing=tuple((name, why) for name, why in missing.items() if why),
    )


def _chain(host: Host, seen: Installed, snapshot: Path, scratch: Path) -> dict[str, Any]:
    """Return the plans of a zygote and of a worker within it, and what must be readable from there."""
    own = plans.folders(host, snapshot, scratch)
    inner = plans.worker(host, seen, Limits(), own, others=1 << 20)
    outer = plans.zygote(host, seen, snapshot.parent)
    needed = [*(each for each in seen.around if not each.startswith("/etc")), own.agent]
    return {"plans": [outer.data(), inner.data()], "needed": needed}


def _try(chains: dict[str, dict[str, Any]]) -> dict[str, Any]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        process = subprocess.Popen(
            [*PYTHON, "-m", "worker.boot", str(theirs.fileno()), "trial"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            env={},
            pass_fds=(theirs.fileno(),),
        )
        theirs.close()
        try:
            ours.settimeout(TRIAL_SECONDS)
            ours.send(json.dumps({"chains": chains}).encode())
            answer = ours.recv(1 << 20)
        except OSError as error:
            raise StartError(f"the walls of this host could not be tried out: {error}") from error
        finally:
            process.kill()
            process.wait()
    if not answer:
        raise StartError("the walls of this host could not be tried out: the process for it ended at once")
    said: dict[str, Any] = json.loads(answer)
    return said
