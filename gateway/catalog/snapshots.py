"""Copies of agent folders, named by the hash of their content: what serves goes on whatever happens on disk."""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

FILES, BYTES = 2000, 64 << 20
SKIPPED = {"__pycache__", "node_modules"}


class SnapshotError(Exception):
    """A folder cannot be copied; the message says why."""


def take(folder: Path, store: Path) -> Path:
    """Return the copy of a folder, made where the store has none of the same content.

    Raises:
        SnapshotError: if the folder is too large, or has links that lead out of it.
    """
    try:
        store.mkdir(parents=True, exist_ok=True)
        beside = Path(tempfile.mkdtemp(prefix=".", dir=store))
    except OSError as error:
        raise SnapshotError(f"the folder cannot be copied: {error.strerror}") from error
    try:
        for path in _files(folder):
            target = beside / path
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(folder / path, target)
        _open_to_all(beside)
        return _keep(beside, store / _digest(beside))  # of the copy: the folder may change while it is read
    except OSError as error:
        raise SnapshotError(f"the folder cannot be copied: {error.strerror or error}") from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _open_to_all(copy: Path) -> None:
    """Let it be read, whoever workers run as and whatever umask the gateway has."""
    copy.chmod(0o755)
    for path in copy.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)


def _keep(beside: Path, copy: Path) -> Path:
    try:
        beside.rename(copy)
    except OSError:
        if not copy.exists():  # else it is there already, or another agent of the same content was first
            raise
    return copy


def _files(folder: Path) -> Iterator[Path]:
    """Yield the files of a folder by their path within it, in order."""
    size = count = 0
    real = folder.resolve()
    for parent, folders, names in os.walk(folder, onerror=_raise):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name not in SKIPPED)
        for name in sorted(folders + names):
            path = Path(parent, name)
            if path.is_symlink() and not path.resolve().is_relative_to(real):
                raise SnapshotError(f"{path.relative_to(folder)} is a link that leads out of the folder")
        for name in sorted(names):
            path = Path(parent, name)
            if name.startswith(".") or not path.is_file():
                continue
            count, size = count + 1, size + path.stat().st_size
            if count > FILES or size > BYTES:
                raise SnapshotError(f"the folder has more than {FILES} files or {BYTES >> 20} MiB")
            yield path.relative_to(folder)


def _digest(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in _files(folder):
        content = (folder / path).read_bytes()
        digest.update(os.fsencode(path) + b"\0%d\0" % len(content) + content)
    return digest.hexdigest()[:32]


def _raise(error: OSError) -> None:
    raise error
