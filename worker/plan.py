"""The walls of a process as data: made by the gateway, put up by the process itself; standard library only, pure."""

import base64
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

NAMESPACES = ("user", "mnt", "pid", "net", "ipc", "uts", "cgroup")
"""The kinds that a walled-in process has of its own, by their names in /proc."""
FAILED = 71
"""The exit status of a process whose walls could not be put up."""
COMPLAINT = "the walls could not be put up: "
"""How the line begins that such a process leaves in its log."""

Right = Literal["read", "write", "device"]
"""What Landlock lets be done: read and run; read and change, not run; read and write one file that is there."""


@dataclass(frozen=True)
class Bind:
    """A file or folder of the outside that is seen inside, read-only."""

    source: str
    target: str


@dataclass(frozen=True)
class Memory:
    """A folder that is kept in memory, empty at first."""

    path: str
    mb: int
    """0: nothing can be written to it; it hides what is beneath."""
    inodes: int = 1024


Proc = Literal["", "pids", "own", "outer"]
"""What /proc is: nothing, the processes of the own namespace, that with the system's settings, or the one outside."""


@dataclass(frozen=True)
class Root:
    """All that is seen of the file system."""

    binds: tuple[Bind, ...]
    links: tuple[tuple[str, str], ...]
    """Symbolic links: path and where it leads."""
    memory: tuple[Memory, ...]
    proc: Proc = ""
    stage: str = "/mnt"
    """A folder where it is put together, before it is the root: one that nobody needs meanwhile."""


@dataclass(frozen=True)
class Plan:
    """The walls around one process. What is empty or false is not put up."""

    uid: int
    """The host's user and group that it runs as; -1 for that of whoever starts it."""
    lent: Root | None = None
    """What is put together as root, before it becomes another user who could not walk there."""
    namespaces: tuple[str, ...] = ()
    root: Root | None = None
    nested: bool = False
    """Whether it may make further namespaces."""
    limits: tuple[tuple[str, int, int], ...] = ()
    """Limits by their names in `resource`, soft and hard."""
    bare: bool = False
    """Whether it gives up all capabilities, and can gain none."""
    landlock: tuple[tuple[str, Right], ...] = ()
    """Paths, each with what may be done at and under it."""
    seccomp: bytes = b""
    """A compiled filter."""

    def data(self) -> dict[str, Any]:
        """Return the plan as JSON can carry it."""
        return asdict(self) | {"seccomp": base64.b64encode(self.seccomp).decode()}


def plan_of(data: Mapping[str, Any]) -> Plan:
    """Return the plan that `Plan.data` made this of."""
    return Plan(
        uid=data["uid"],
        lent=_root_of(data["lent"]),
        namespaces=tuple(data["namespaces"]),
        root=_root_of(data["root"]),
        nested=data["nested"],
        limits=tuple((name, soft, hard) for name, soft, hard in data["limits"]),
        bare=data["bare"],
        landlock=tuple((path, rights) for path, rights in data["landlock"]),
        seccomp=base64.b64decode(data["seccomp"]),
    )


def _root_of(data: Mapping[str, Any] | None) -> Root | None:
    if data is None:
        return None
    return Root(
        binds=tuple(Bind(**each) for each in data["binds"]),
        links=tuple((path, to) for path, to in data["links"]),
        memory=tuple(Memory(**each) for each in data["memory"]),
        proc=data["proc"],
        stage=data["stage"],
    )
