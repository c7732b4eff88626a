"""Filling folders, for the attempts on memory and on disk."""

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

MB = 1 << 20


@contextlib.contextmanager
def folder_in(above: str) -> Iterator[Path]:
    """A folder that is gone afterwards, with what is in it."""
    folder = tempfile.mkdtemp(prefix="attack-", dir=above)
    try:
        yield Path(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def write(file: BinaryIO, size: int) -> None:
    block = bytes(MB)
    for _ in range(0, size, MB):
        if file.write(block) != MB:
            file.write(block)  # a short one is followed by the reason


def fill(folder: Path, size: int, each: int) -> int:
    """Fill a folder by files of a size that is allowed; how much is in it."""
    for number, _ in enumerate(range(0, size, each)):
        with open(folder / str(number), "wb", buffering=0) as file:
            write(file, each)
    return sum(path.stat().st_size for path in folder.iterdir())
