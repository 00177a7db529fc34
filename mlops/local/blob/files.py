"""How blob names are laid out as files, and copying between them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

SELF = ".~self"
"""Holds the content of blob ``a`` while blobs ``a/…`` exist: a file system has no file that is a folder as well."""
SLASH = ".~slash"
"""Holds the content of a blob whose name ends with a slash."""
PART = re.compile(r"^\..*\.part$")


def copy_part(source: Path, target: Path, begin: int, size: int) -> None:
    """Copy a range of one file into a new one."""
    with source.open("rb") as part, target.open("wb") as out:
        copy_range(part.fileno(), out.fileno(), begin, size)


def copy_range(source: int, target: int, begin: int, size: int) -> None:
    """The same between open files, at the target's position."""
    while size:
        chunk = os.pread(source, min(size, 8 << 20), begin)
        if not chunk:
            raise OSError("a block became shorter while it was read")
        begin += os.write(target, chunk)
        size -= len(chunk)


def walk(folder: Path, prefix: str) -> Iterator[str]:
    """The names of the blobs below a folder, in no order."""
    try:
        entries = list(os.scandir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return
    for entry in entries:
        if entry.name == SELF:
            yield prefix.rstrip("/")
        elif entry.name == SLASH:
            yield prefix
        elif entry.is_dir(follow_symlinks=False):
            yield from walk(Path(entry.path), f"{prefix}{entry.name}/")
        elif entry.is_file() and not PART.match(entry.name):
            yield prefix + entry.name
