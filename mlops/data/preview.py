"""The first rows, to be looked at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlops.data import reading, sources
from mlops.data.rules import RowInvalid


@dataclass(frozen=True)
class Preview:
    """The first rows of one split, as the file has them; a row that is no JSON is a string."""

    split: str
    file: Path
    rows: tuple[Any, ...]


def preview(
    dataset: str, *, revision: str | None = None, rows: int = 3, splits: Sequence[str] = (), root: Path | None = None
) -> tuple[Preview, ...]:
    """Returns the first rows of each split.

    Args:
        dataset: a folder, a file, or a name on the hub.
        revision: branch, tag or commit on the hub.
        rows: how many of each split.
        splits: only these; all when empty.
        root: where a relative dataset begins; the working directory when None.

    Raises:
        UsageError: the data set or a split is not there.
        PreconditionError: the hub cannot be reached.
    """
    from mlops.core.errors import UsageError

    source = sources.locate(dataset, revision=revision, root=root, splits=tuple(splits) or None)
    for split in splits:
        if split not in source.splits:
            raise UsageError(f"'{dataset}' has no split '{split}'; it has {', '.join(source.splits)}")
    return tuple(
        Preview(split=split, file=files[0], rows=tuple(_first(files, rows)))
        for split, files in source.splits.items()
        if not splits or split in splits
    )


def _first(files: tuple[Path, ...], rows: int) -> list[Any]:
    import msgspec

    previews: list[Any] = []
    for path in files:
        for _, line in reading.read(path):
            if len(previews) >= rows:
                return previews
            try:
                previews.append(line.reason if isinstance(line, RowInvalid) else msgspec.json.decode(line))
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                text = bytes(line)[:200].decode("utf-8", "replace") if isinstance(line, bytes) else line.reason
                previews.append(text)
    return previews
