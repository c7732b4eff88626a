"""The folders of the state that workers use, and how what they left in them is removed."""

import shutil
import stat
from dataclasses import dataclass
from pathlib import Path

from gateway.observe.logs import logger
from gateway.runtime.plans import Host


@dataclass(frozen=True)
class Places:
    """Folders of the state that workers use."""

    sockets: Path
    scratch: Path
    snapshots: Path
    logs: Path


def places(state: Path) -> Places:
    """Make the folders of a state folder that workers use; what an ended gateway left in them is removed."""
    made = Places(state / "run", state / "scratch", state / "snapshots", state / "logs")
    for folder in (made.sockets, made.scratch, made.snapshots, made.logs):
        folder.mkdir(parents=True, exist_ok=True)
    for folder in (made.sockets, made.scratch, made.snapshots):
        for left in folder.iterdir():
            remove(left)
    return made


def open_to_workers(state: Path, host: Host) -> None:
    """Let workers that are another user, and see the disk as it is, walk to what is theirs; they can list nothing."""
    if host.uid < 0 or host.namespaces:
        return
    for folder in (state, state / "scratch"):
        folder.chmod(0o711)
    for folder in (state / "logs", state / "run"):
        folder.chmod(0o700)


def remove(path: Path) -> None:
    """Remove what a worker left, whatever rights and links it gave it; what cannot be removed is logged."""

    def unlock(_: object, name: str, error: object) -> None:
        left = Path(name)
        left.parent.chmod(stat.S_IRWXU)
        if left.is_dir() and not left.is_symlink():  # a link leads to what is not the worker's
            left.chmod(stat.S_IRWXU)
            shutil.rmtree(left)
        else:
            left.unlink(missing_ok=True)

    try:
        if path.is_symlink() or not path.is_dir():
            path.unlink()
        else:
            shutil.rmtree(path, onerror=unlock)
    except OSError as error:
        logger().warning("state.left_behind", path=str(path), reason=error.strerror)
