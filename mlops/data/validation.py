"""Looks at every row of files that are not to be written."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mlops.core.errors import DataInvalid, FileLocation, UsageError
from mlops.data import reading, sources
from mlops.data.report import Report, Tally
from mlops.data.rules import FILE, Checker, RowInvalid

if TYPE_CHECKING:
    from mlops.core.console import Console


def validate(
    paths: Sequence[Path],
    *,
    derive: bool = False,
    max_row_bytes: int = reading.MAX_ROW_BYTES,
    console: Console | None = None,
) -> Report:
    """Checks all rows of folders and files.

    Args:
        paths: folders with split files, or files.
        derive: let a missing prompt or prompt_id pass.
        max_row_bytes: the longest row that is let pass.
        console: shows progress.

    Raises:
        UsageError: a path does not exist or holds no rows.

    Files that are broken as a whole (0 bytes, UTF-16) and rows that break a rule raise nothing: they are in the report.
    """
    files: dict[str, list[Path]] = {}
    for path in paths:
        if not path.exists():
            raise UsageError(f"there is no folder or file '{path}'")
        for split, paths_of_split in sources.locate(str(path), revision=None).splits.items():
            files.setdefault(split, []).extend(paths_of_split)
    ordered = sources.in_order({split: tuple(paths_of_split) for split, paths_of_split in files.items()})
    tally = Tally(Checker(derive=derive))
    for split, paths_of_split in ordered.items():
        tally.rows[split] = 0
        for path in paths_of_split:
            try:
                note_columns(tally, path, max_row_bytes)
                for _ in check_rows(tally, split, path, follow(path, max_row_bytes, console)):
                    pass
            except DataInvalid as error:  # the other files are looked at all the same
                location = error.location or FileLocation(file=str(path))
                tally.broken(split=split, rule=FILE, reason=error.message, location=location)
    return tally.report()


def check_rows(tally: Tally, split: str, path: Path, lines: Iterable[reading.NumberedLine]) -> Iterator[bytes]:
    """Yields the rows that keep every rule, as they are written; counts the others."""
    check = tally.checker.check
    rows = 0
    try:
        for number, line in lines:
            rows += 1
            try:
                if isinstance(line, RowInvalid):
                    raise line
                yield check(split, line)
            except RowInvalid as problem:
                location = FileLocation(file=str(path), line=number)
                tally.broken(split=split, rule=problem.rule, reason=problem.reason, location=location)
    finally:
        tally.rows[split] += rows


def note_columns(tally: Tally, path: Path, max_row_bytes: int) -> None:
    """Remembers the columns that will not be looked at."""
    tally.columns.update(set(reading.columns_of(path, max_row_bytes=max_row_bytes)) - set(reading.COLUMNS))


def follow(path: Path, max_row_bytes: int, console: Console | None) -> Iterator[reading.NumberedLine]:
    """Yields the rows of a file and shows how many have gone by."""
    lines = reading.read(path, max_row_bytes=max_row_bytes)
    if console is None:
        yield from lines
        return
    with console.progress() as progress:
        task = progress.add_task(path.name, total=None)
        for number, line in enumerate(lines, start=1):
            if number % 2000 == 0:
                progress.update(task, completed=number)
            yield line
