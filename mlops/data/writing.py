"""Rows to a file, hashed on the way."""

from __future__ import annotations

import hashlib
from concurrent.futures import Executor, Future
from pathlib import Path

from mlops.data.manifest import FileEntry

CHUNK = 1 << 20


class Writer:
    """One file of rows with its hash; opened when made.

    Chunks are hashed and written in a thread (both leave Python's lock) while the next one is filled; one chunk of
    each file waits at most, so memory stays flat.
    """

    def __init__(self, path: Path, background: Executor) -> None:
        self.path = path
        self.rows = 0
        self.bytes = 0
        self._background = background
        self._file = path.open("wb", buffering=0)
        self._digest = hashlib.sha256()
        self._waiting: list[bytes] = []
        self._size = 0
        self._last: Future[None] | None = None

    def write(self, row: bytes) -> None:
        """Takes one row, without its newline."""
        self._waiting.append(row)
        self._size += len(row) + 1
        self.rows += 1
        if self._size >= CHUNK:
            self._flush()

    def _flush(self) -> None:
        if self._last is not None:
            self._last.result()
        rows, self._waiting = self._waiting, []
        self.bytes += self._size
        self._size = 0
        self._last = self._background.submit(self._put, rows)

    def _put(self, rows: list[bytes]) -> None:
        chunk = b"\n".join([*rows, b""])
        self._digest.update(chunk)
        rest = memoryview(chunk)
        while rest:
            rest = rest[self._file.write(rest) :]

    def finish(self) -> FileEntry:
        """Writes what is left; raises what went wrong in the thread."""
        self._flush()
        if self._last is not None:
            self._last.result()
        return FileEntry(name=self.path.name, rows=self.rows, bytes=self.bytes, sha256=self._digest.hexdigest())

    def close(self) -> None:
        """Closes the file; the thread must be done with it."""
        self._file.close()
