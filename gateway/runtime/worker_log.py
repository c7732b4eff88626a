"""What a worker prints: read by the gateway, so that it is capped in size and in rate, and written to its log."""

import contextlib
import os
from pathlib import Path

import anyio

from gateway.observe.text import printable

FILE_LIMIT = 8 << 20
"""Bytes of a log file; then it is renamed to `.1`, and the one before that is gone."""
RATE = 16 << 20
"""Bytes a second that are read; a worker that prints more waits for it."""
PIECE = 64 << 10


class WorkerLog:
    """The log file of one agent, and the pipe that a worker writes to."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.last = ""
        """The last line that was written, as far as it is known."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self._read, self.write = os.pipe()
        os.set_blocking(self._read, False)

    async def pump(self) -> None:
        """Move what comes to the file until all writers are gone."""
        while True:
            await anyio.wait_readable(self._read)
            moved = self._move()
            if moved == 0:
                return
            await anyio.sleep((moved or 0) / RATE)

    def close(self) -> None:
        """Take what is still in the pipe, and close it."""
        self.close_write()
        self.catch_up()
        os.close(self._read)

    def catch_up(self) -> None:
        """Take what is in the pipe by now."""
        for _ in range(32):  # a pipe holds less; whatever still writes does not keep us
            if not self._move():
                break

    def close_write(self) -> None:
        """Close our copy of the end that the worker has."""
        if self.write >= 0:
            os.close(self.write)
            self.write = -1

    def _move(self) -> int | None:
        """Move a piece to the file; 0 at the end of the pipe, None where nothing is in it."""
        try:
            data = os.read(self._read, PIECE)
        except BlockingIOError:
            return None
        if data:
            self.last = printable(data[-1000:].decode("utf-8", "replace").strip().rpartition("\n")[2])
            with contextlib.suppress(OSError):  # a full disk loses lines, not workers
                self._append(data)
        return len(data)

    def _append(self, data: bytes) -> None:
        if self._path.exists() and self._path.stat().st_size + len(data) > FILE_LIMIT:
            self._path.rename(self._path.with_suffix(".log.1"))
        with self._path.open("ab") as file:
            file.write(data)
