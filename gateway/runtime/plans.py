"""Which walls stand around a process, made of policy and of what there is on this host; pure, runs in the gateway."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from gateway.policy.agents import Limits
from worker.plan import NAMESPACES, Bind, Memory, Plan, Proc, Right, Root

Tier = Literal["full", "no-namespaces", "partial", "off"]
TIERS: tuple[Tier, ...] = ("full", "no-namespaces", "partial", "off")
"""From the strongest to none."""
WORKER_UID = 60900
"""The user of workers where the gateway is root: of a range that no distribution gives to anybody."""
SCOPES_ABI = 6
"""The Landlock that keeps signals in; without namespaces, an older one is not enough."""
AGENT, SCRATCH, SNAPSHOTS = "/agent", "/scratch", "/snapshots"
"""Where a worker with its own root finds its agent and may write, and its zygote the snapshots of the namespace."""
DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")
SHARED_MEMORY_MB = 16
INODES_PER_MB = 64
ADDRESSES = 64 << 30
"""Bytes of addresses, so that those reserved for threads and heaps fit, and the tables of pages end somewhere."""
ZYGOTE_MB = 128
"""More than a worker has of its zygote."""
MB = 1 << 20
LINKS = (
    ("/tmp", SCRATCH),  # noqa: S108 - for code that asks for it by name
    ("/dev/fd", "/proc/self/fd"),
    ("/dev/stdin", "/proc/self/fd/0"),
    ("/dev/stdout", "/proc/self/fd/1"),
    ("/dev/stderr", "/proc/self/fd/2"),
)


@dataclass(frozen=True)
class Installed:
    """What every worker needs to see of the disk."""

    shown: tuple[str, ...]
    """Files and folders: the system's libraries, the interpreter, its environment, `worker/`."""
    links: tuple[tuple[str, str], ...]
    """Symbolic links on the way to them."""
    hidden: tuple[str, ...]
    """Folders within those that are not for workers: `gateway/`."""
    around: tuple[str, ...]
    """The same as `shown`, in as many parts as it takes to leave out what is hidden."""
    stage: str = "/mnt"
    """A folder of the system's in, over and under which nothing of that lies."""


@dataclass(frozen=True)
class Host:
    """Which walls this host can give."""

    uid: int = -1
    """Whom workers run as; -1 for the gateway's own user."""
    namespaces: bool = False
    proc: bool = False
    """Whether a process in namespaces can have a /proc of its own."""
    landlock: int = 0
    """The version of Landlock; 0 for none."""
    seccomp: bytes = b""
    """The compiled filter."""
    missing: tuple[tuple[str, str], ...] = ()
    """The walls that it cannot give, each with the reason."""
    off: bool = False
    """Whether the operator wants none."""

    @property
    def tier(self) -> Tier:
        """What these walls are together."""
        if self.off:
            return "off"
        names = {name for name, _ in self.missing}
        return "full" if not names else "no-namespaces" if names == {"namespaces"} else "partial"

    def why_not(self, wanted: str) -> str:
        """Say why an agent that wants at least this tier cannot have it here; empty where it can."""
        if self.off or ("user" not in dict(self.missing) and TIERS.index(self.tier) <= TIERS.index(_tier(wanted))):
            return ""
        walls = "; ".join(f"{name} ({why})" for name, why in self.missing)
        return f"policy wants the tier {wanted} at least, this host gives {self.tier}; missing: {walls}"


def _tier(name: str) -> Tier:
    return next(each for each in TIERS if each == name)


@dataclass(frozen=True)
class Folders:
    """What one worker has of its own: outside, and as itself sees it."""

    snapshot: str
    scratch: str
    agent: str
    writable: str


def folders(host: Host, snapshot: Path, scratch: Path) -> Folders:
    """Return where a worker finds its agent and may write."""
    if host.namespaces:
        return Folders(f"{SNAPSHOTS}/{snapshot.name}", "", AGENT, SCRATCH)
    return Folders(str(snapshot), str(scratch), str(snapshot), str(scratch))


def zygote(host: Host, installed: Installed, snapshots: Path) -> Plan:
    """Return the walls of a zygote: it sees what its workers may, and of agents those of one namespace."""
    if not host.namespaces:
        return Plan(host.uid)
    binds = (*_binds(installed), Bind(str(snapshots), SNAPSHOTS))
    stage = Memory(installed.stage, 0)  # where its workers put their roots together
    root = Root(binds, installed.links, (*_masks(installed), stage), _zygotes_proc(host), installed.stage)
    if host.uid < 0:
        return Plan(-1, None, NAMESPACES, root, nested=True)
    again = tuple(Bind(each.target, each.target) for each in binds)  # within the root that was lent
    return Plan(host.uid, replace(root, proc="outer"), NAMESPACES, replace(root, binds=again), nested=True)


def _zygotes_proc(host: Host) -> Proc:
    """A zygote writes there who its workers are, and needs one."""
    return "own" if host.proc else "outer"


def worker(host: Host, installed: Installed, limits: Limits, own: Folders, others: int = 0) -> Plan:
    """Return the walls of a worker; `others` are the tasks that the user of workers has already."""
    if host.off:
        return Plan(-1)
    if not host.namespaces:
        return Plan(
            -1,
            limits=_limits(limits, limits.processes + others),
            bare=True,
            landlock=_rights_by_path(installed, own) if host.landlock else (),
            seccomp=host.seccomp,
        )
    memory = (
        *_masks(installed),
        Memory(SCRATCH, limits.scratch_mb, limits.scratch_mb * INODES_PER_MB),
        Memory("/dev/shm", SHARED_MEMORY_MB),  # noqa: S108 - a file system of its own
    )
    binds = (*_binds(installed), Bind(own.snapshot, AGENT))
    return Plan(
        -1,
        namespaces=NAMESPACES,
        root=Root(binds, _links(installed), memory, "pids" if host.proc else "", installed.stage),
        limits=_limits(limits, limits.processes),
        bare=True,
        landlock=RIGHTS_IN_OWN_ROOT if host.landlock else (),
        seccomp=host.seccomp,
    )


def _binds(installed: Installed) -> tuple[Bind, ...]:
    return tuple(Bind(path, path) for path in (*installed.shown, *DEVICES))


def _links(installed: Installed) -> tuple[tuple[str, str], ...]:
    """Return the links of a worker's root, but for one where a folder has to be."""
    own = (each for each in LINKS if not any(Path(shown).is_relative_to(each[0]) for shown in installed.shown))
    return (*installed.links, *own)


def _masks(installed: Installed) -> tuple[Memory, ...]:
    return tuple(Memory(path, 0) for path in installed.hidden)


def _rights(paths: Iterable[str], right: Right) -> tuple[tuple[str, Right], ...]:
    return tuple((path, right) for path in paths)


RIGHTS_IN_OWN_ROOT = (
    *_rights(["/"], "read"),
    *_rights([SCRATCH, "/dev/shm"], "write"),  # noqa: S108 - a file system of its own
    *_rights(DEVICES, "device"),
)
"""What is there is there to be read: the root holds nothing else."""


def _rights_by_path(installed: Installed, own: Folders) -> tuple[tuple[str, Right], ...]:
    return (
        *_rights((*installed.around, own.snapshot), "read"),
        *_rights([own.scratch], "write"),
        *_rights(DEVICES, "device"),
    )


def _limits(limits: Limits, tasks: int) -> tuple[tuple[str, int, int], ...]:
    """As setrlimit takes them. A soft limit of CPU seconds ends a process by a signal of its own."""
    data = (2 * limits.memory_mb + ZYGOTE_MB) * MB  # for one that takes memory faster than the watch looks
    return (
        ("RLIMIT_AS", ADDRESSES, ADDRESSES),
        ("RLIMIT_CORE", 0, 0),
        ("RLIMIT_MEMLOCK", 0, 0),
        ("RLIMIT_MSGQUEUE", 0, 0),
        ("RLIMIT_CPU", limits.cpu_seconds, limits.cpu_seconds + 5),
        ("RLIMIT_DATA", data, data),
        ("RLIMIT_FSIZE", limits.file_mb * MB, limits.file_mb * MB),
        ("RLIMIT_NOFILE", limits.open_files, limits.open_files),
        ("RLIMIT_NPROC", tasks, tasks),
    )
