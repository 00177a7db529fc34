"""Blocks that were uploaded and not yet committed, and the files that they become."""

from __future__ import annotations

import base64
import hashlib
import shutil
from pathlib import Path

from mlops.local.blob.errors import BlobError
from mlops.local.blob.files import copy_range
from mlops.local.blob.store import Blobs

PREFIX = "blocks-"


class Blocks:
    """The uncommitted blocks, below the account's staging folder."""

    def __init__(self, blobs: Blobs) -> None:
        self._blobs = blobs

    def folder(self, container: str, name: str) -> Path:
        """Where the uncommitted blocks of a blob are."""
        key = hashlib.sha256(f"{container}/{name}".encode()).hexdigest()
        return self._blobs.staging / f"blocks-{key}"

    def stage(self, container: str, name: str, block: str, content: Path) -> None:
        """Keep a block until a list commits it."""
        folder = self.folder(container, name)
        folder.mkdir(exist_ok=True)
        content.replace(folder / _block_file(block))

    def staged(self, container: str, name: str) -> dict[str, int]:
        """The uncommitted blocks with their sizes."""
        folder = self.folder(container, name)
        if not folder.is_dir():
            return {}
        return {
            base64.urlsafe_b64decode(entry.name).decode(): entry.stat().st_size for entry in sorted(folder.iterdir())
        }

    def assemble(
        self, container: str, name: str, block_list: list[tuple[str, str]]
    ) -> tuple[Path, tuple[tuple[str, int], ...]]:
        """Join blocks into one file aside; ``wanted`` are pairs of where (Latest, …) and id."""
        staged = self.staged(container, name)
        existing = self._blobs.get(container, name)
        offsets: dict[str, tuple[int, int]] = {}
        position = 0
        for block, size in existing.blocks if existing else ():
            offsets.setdefault(block, (position, size))
            position += size
        result = self._blobs.aside()
        blocks: list[tuple[str, int]] = []
        try:
            with result.open("wb") as out:
                for where, block in block_list:
                    if where in ("Latest", "Uncommitted") and block in staged:
                        source, begin, size = self.folder(container, name) / _block_file(block), 0, staged[block]
                    elif where in ("Latest", "Committed") and block in offsets and existing is not None:
                        source, (begin, size) = existing.path, offsets[block]
                    else:
                        raise BlobError("InvalidBlockList")
                    with source.open("rb") as part:
                        copy_range(part.fileno(), out.fileno(), begin, size)
                    blocks.append((block, size))
        except BaseException:
            result.unlink(missing_ok=True)
            raise
        return result, tuple(blocks)

    def forget(self, container: str, name: str) -> None:
        """Drop the uncommitted blocks of a blob."""
        shutil.rmtree(self.folder(container, name), ignore_errors=True)


def _block_file(block: str) -> str:
    return base64.urlsafe_b64encode(block.encode()).decode()
