"""Hosts of a kind: runs a command in the circumstances of another machine, on this one.

    python hosts.py [--user=UID] [--lend] [--no-namespaces] [--no-landlock] [--masked-proc] -- COMMAND...

An ordinary user finds the interpreter and the project even where they lie below a folder that is closed to it: in a
mount namespace of its own the closed folder is covered, and what is needed is bound back. Engines of containers refuse
namespaces and mounts by a filter of system calls, and mask parts of /proc by mounts; so does this. Needs root, but for
the filters.
"""

import argparse
import errno
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from worker import kernel

PROJECT = Path(__file__).resolve().parents[2]
MASKED = ("/proc/acpi", "/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys/kernel", "/proc/driver")
"""Folders of which some are there: one that is covered is enough for the kernel to refuse another /proc."""
NAMESPACES = (0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000)
MOUNTS = "mount umount2 pivot_root open_tree move_mount fsopen fsconfig fsmount fspick mount_setattr"


def through(*options: str) -> list[str]:
    """Return the prefix of a command that is to run on such a host."""
    return [sys.executable, str(Path(__file__).resolve()), *options, "--"] if options else []


def main() -> None:
    """Change the circumstances, and run the command in them."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--user", type=int)
    for name in ("lend", "no-namespaces", "no-landlock", "masked-proc"):
        parser.add_argument(f"--{name}", action="store_true")
    parser.add_argument("command", nargs="+")
    asked = parser.parse_args()
    if asked.lend or asked.masked_proc:
        kernel.unshare(kernel.NEW_MOUNT)
        kernel.make_mounts_private()
    if asked.lend:
        _lend()
    if asked.masked_proc:
        _mask()
    if asked.user is not None:
        os.setgroups([])
        os.setresgid(asked.user, asked.user, asked.user)
        os.setresuid(asked.user, asked.user, asked.user)
    if asked.no_namespaces or asked.no_landlock:
        _filter(namespaces=asked.no_namespaces, landlock=asked.no_landlock)
    os.execvp(asked.command[0], asked.command)  # noqa: S606 - which is all that is wanted


def _lend() -> None:
    """Open the way to the interpreter and the project, and to nothing else that lies on it."""
    closed = {path: next(_closed_above(path), None) for path in (Path(sys.base_prefix), Path(sys.prefix), PROJECT)}
    trees = {path: kernel.open_tree(str(path)) for path, door in closed.items() if door}
    for door in {door for door in closed.values() if door}:
        kernel.mount("tmpfs", str(door), options="mode=755")
    for path, tree in trees.items():
        path.mkdir(parents=True, exist_ok=True)
        kernel.move_mount(tree, str(path))
        os.close(tree)


def _closed_above(path: Path) -> Iterator[Path]:
    """Yield the folders on the way that not everybody may walk through, from the root on."""
    return (each for each in reversed([path, *path.parents]) if not each.stat().st_mode & 1)


def _mask() -> None:
    for path in MASKED:
        if Path(path).is_dir():
            kernel.mount("tmpfs", path, kernel.MOUNT_READ_ONLY)


def _filter(*, namespaces: bool, landlock: bool) -> None:
    import pyseccomp  # type: ignore[import-untyped]

    library: Any = pyseccomp
    rules = library.SyscallFilter(library.ALLOW)
    if landlock:
        rules.add_rule(library.ERRNO(errno.ENOSYS), "landlock_create_ruleset")
    if namespaces:
        for name in ("unshare", "setns", *MOUNTS.split()):
            rules.add_rule(library.ERRNO(errno.EPERM), name)
        rules.add_rule(library.ERRNO(errno.ENOSYS), "clone3")
        for bit in NAMESPACES:
            rules.add_rule(library.ERRNO(errno.EPERM), "clone", library.Arg(0, library.MASKED_EQ, bit, bit))
    rules.load()


if __name__ == "__main__":
    main()
