"""The folders of the state that workers use, and how what they left in them is removed."""

import os
import secrets
import stat
from dataclasses import dataclass
from pathlib import Path

from gateway.observe.logs import logger


@dataclass(frozen=True)
class Places:
    """Folders of the state that workers use."""

    sockets: Path
    scratch: Path
    snapshots: Path
    logs: Path


def places(state: Path) -> Places:
    """Make the folders of a state folder that workers use; what an ended gateway left in them is removed.

    Workers of root are another user, who without a root of its own walks through these folders; it can list none.
    """
    made = Places(state / "run", state / "scratch", state / "snapshots", state / "logs")
    for folder in (made.sockets, made.scratch, made.snapshots, made.logs):
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    for folder in (made.sockets, made.scratch, made.snapshots):
        for left in folder.iterdir():
            remove(left)
    if os.geteuid() == 0:
        for folder in (state, made.scratch, made.snapshots):
            folder.chmod(0o711)
    return made


def remove(path: Path) -> None:
    """Remove what a worker left, whatever rights, links and depth it gave it; what cannot be removed is logged."""
    try:
        if path.is_symlink() or not path.is_dir():
            path.unlink()
            return
        path.chmod(stat.S_IRWXU)
        while entries := list(os.scandir(path)):
            for number, entry in enumerate(entries):
                _take_apart(entry, path, number)
        path.rmdir()
    except OSError as error:
        logger().warning("state.left_behind", path=str(path), reason=error.strerror)


def _take_apart(entry: "os.DirEntry[str]", top: Path, number: int) -> None:
    """Remove an entry of the top folder; what a folder holds moves to the top, so that no path ever gets long."""
    if not entry.is_dir(follow_symlinks=False):
        os.unlink(entry.path)
        return
    os.chmod(entry.path, stat.S_IRWXU)
    for index, held in enumerate(list(os.scandir(entry.path))):
        if held.is_dir(follow_symlinks=False):
            os.chmod(held.path, stat.S_IRWXU)
            os.rename(held.path, top / f"{secrets.token_hex(8)}.{number}.{index}")
        else:
            os.unlink(held.path)
    os.rmdir(entry.path)
