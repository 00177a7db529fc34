"""Files to rows: JSON lines, JSON, parquet and Arrow, one row in memory at a time.

Every reader yields the rows as JSON bytes with their number (a line for JSON lines, a row for the others), so that
one checker serves them all. What is wrong with a file as a whole is a DataInvalid; what is wrong with one row is
yielded in its place.
"""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from mlops.core.errors import DataInvalid, FileLocation
from mlops.data.rules import RowInvalid

COLUMNS = ("prompt", "prompt_id", "messages")
SUFFIXES = (".jsonl", ".ndjson", ".jsonl.gz", ".ndjson.gz", ".json", ".parquet", ".arrow")
MAX_ROW_BYTES = 10_000_000
MAX_JSON_BYTES = 256_000_000
BATCH_ROWS = 512

NumberedLine = tuple[int, bytes | RowInvalid]


def is_readable(path: Path) -> bool:
    """Whether the name ends in one of SUFFIXES."""
    return path.name.endswith(SUFFIXES)


def read(path: Path, *, max_row_bytes: int = MAX_ROW_BYTES) -> Iterator[NumberedLine]:
    """Yields (number, row as JSON) for every row of a file.

    Args:
        path: a file whose name ends in one of SUFFIXES.
        max_row_bytes: a longer row is not read into memory.

    Raises:
        DataInvalid: the file holds 0 bytes, or is not what its name says.
    """
    if path.stat().st_size == 0:
        raise DataInvalid(
            "the file holds 0 bytes", location=FileLocation(file=str(path)), hint="was its download cut off?"
        )
    if path.suffix in (".parquet", ".arrow"):
        yield from _columnar(path)
    elif path.suffix == ".json":
        yield from _json(path, max_row_bytes)
    elif path.suffix == ".gz":
        with gzip.open(path, "rb") as file:
            try:
                yield from _lines(file, path, max_row_bytes)
            except (EOFError, OSError, zlib.error) as error:
                raise DataInvalid(f"cannot be unpacked: {error}", location=FileLocation(file=str(path))) from None
    else:
        with path.open("rb", buffering=1 << 20) as file:
            yield from _lines(file, path, max_row_bytes)


def count(path: Path, *, max_row_bytes: int = MAX_ROW_BYTES) -> int:
    """Returns the number of rows of a file, as many as `read` yields."""
    if path.suffix == ".parquet" and path.stat().st_size:
        return int(_parquet(path).metadata.num_rows)
    return sum(1 for _ in read(path, max_row_bytes=max_row_bytes))


def _lines(file: IO[bytes] | gzip.GzipFile, path: Path, max_row_bytes: int) -> Iterator[NumberedLine]:
    number = rows = 0
    while line := file.readline(max_row_bytes + 1):
        number += 1
        if number == 1:
            line = _without_mark(line, path)
        if len(line) > max_row_bytes and not line.endswith(b"\n"):
            size = len(line)
            while not line.endswith(b"\n") and (line := file.readline(1 << 20)):
                size += len(line)
            rows += 1
            yield number, RowInvalid("too_long", f"the row holds {size:,} bytes, the limit is {max_row_bytes:,}")
        elif line.isspace() or not line:
            continue
        elif line.endswith(b"\n") or _is_whole(line):
            rows += 1
            yield number, line
        else:
            rows += 1
            yield number, RowInvalid("truncated", f"the last line breaks off after {len(line):,} bytes")
    if not rows:
        raise DataInvalid("the file holds no row", location=FileLocation(file=str(path)))


def _is_whole(line: bytes) -> bool:
    """Whether a last line that no newline ends is only lacking that; any other fault is the checker's to name."""
    import msgspec

    try:
        msgspec.json.decode(line)
    except msgspec.DecodeError as error:
        return "truncated" not in str(error)
    except (UnicodeDecodeError, RecursionError):
        pass
    return True


def _without_mark(line: bytes, path: Path) -> bytes:
    """Takes a UTF-8 byte order mark away and refuses what is visibly no UTF-8 text."""
    location = FileLocation(file=str(path), line=1)
    if line.startswith(b"\xef\xbb\xbf"):
        return line[3:]
    if line.startswith((b"\xff\xfe", b"\xfe\xff")) or line[:8].count(0) > 1:
        raise DataInvalid(
            "the file is UTF-16 or UTF-32", location=location, hint="convert it: iconv -f UTF-16 -t UTF-8"
        )
    if line.startswith((b"PAR1", b"\x1f\x8b", b"PK\x03\x04", b"(\xb5/\xfd")):
        kinds = {b"P": "a parquet or zip file", b"\x1f": "packed with gzip", b"(": "packed with zstd"}
        raise DataInvalid(
            f"the file is {kinds[line[:1]]}, not JSON lines", location=location, hint="name it so, or unpack it"
        )
    return line


def _json(path: Path, max_row_bytes: int) -> Iterator[NumberedLine]:
    """A JSON array of rows, an object with them under "data" or "rows", or JSON lines under this name."""
    import msgspec

    with path.open("rb") as file:
        start = file.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip()
    if start[:1] == b"{":
        with path.open("rb") as file:
            first = file.readline(max_row_bytes + 1)
        if _is_row(first):
            with path.open("rb", buffering=1 << 20) as file:
                yield from _lines(file, path, max_row_bytes)
            return
    if path.stat().st_size > MAX_JSON_BYTES:
        raise DataInvalid(
            f"a JSON document of {path.stat().st_size:,} bytes is too big to be read whole",
            location=FileLocation(file=str(path)),
            hint="write one row per line into a .jsonl file",
        )
    text = _without_mark(path.read_bytes(), path)
    try:
        rows = msgspec.json.decode(text, type=list[msgspec.Raw] | dict[str, msgspec.Raw])
        if isinstance(rows, dict):
            inner = next((rows[name] for name in ("data", "rows") if name in rows), None)
            if inner is None:
                raise DataInvalid(
                    "a JSON object without 'data' or 'rows'", location=FileLocation(file=str(path), line=1)
                )
            rows = msgspec.json.decode(inner, type=list[msgspec.Raw])
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise DataInvalid(f"not a JSON array of rows: {error}", location=FileLocation(file=str(path))) from None
    if not rows:
        raise DataInvalid("the file holds no row", location=FileLocation(file=str(path)))
    position, number = 0, 1
    for row in rows:
        line = bytes(row)
        row_start = text.index(line, position)
        number += text.count(b"\n", position, row_start)
        position = row_start
        if len(line) > max_row_bytes:
            yield number, RowInvalid("too_long", f"the row holds {len(line):,} bytes, the limit is {max_row_bytes:,}")
        else:
            yield number, line


def _is_row(line: bytes) -> bool:
    import msgspec

    try:
        row = msgspec.json.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return False
    return isinstance(row, dict) and not {"messages", "prompt"}.isdisjoint(row)


def _parquet(path: Path) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        # Without these two a whole row group is held, which may be the whole file.
        return pq.ParquetFile(path, buffer_size=1 << 22, pre_buffer=False)
    except (pa.ArrowInvalid, OSError) as error:
        raise DataInvalid(f"not a whole parquet file: {error}", location=FileLocation(file=str(path))) from None


def _columnar(path: Path) -> Iterator[NumberedLine]:
    import pyarrow as pa

    number = 0
    try:
        for batch in _batches(path):
            for line in json_rows(batch):
                number += 1
                yield number, line
    except pa.ArrowInvalid as error:
        raise DataInvalid(f"cannot be read: {error}", location=FileLocation(file=str(path), line=number + 1)) from None
    if not number:
        raise DataInvalid("the file holds no row", location=FileLocation(file=str(path)))


def _batches(path: Path) -> Iterator[Any]:
    """Record batches of a parquet file or of an Arrow stream or file, the known columns only."""
    import pyarrow as pa

    if path.suffix == ".parquet":
        file = _parquet(path)
        yield from file.iter_batches(batch_size=BATCH_ROWS, columns=_known(file.schema_arrow.names, path))
        return
    # A plain file, not a memory map: mapped pages would count as this process's memory.
    with pa.OSFile(str(path)) as source:
        try:
            stream = pa.ipc.open_stream(source)
        except pa.ArrowInvalid:
            source.seek(0)
            arrow = pa.ipc.open_file(source)
            stream = (arrow.get_batch(index) for index in range(arrow.num_record_batches))
            names = arrow.schema.names
        else:
            names = stream.schema.names
        columns = _known(names, path)
        for batch in stream:
            yield batch.select(columns)


def _known(names: Iterable[str], path: Path) -> list[str]:
    present = list(names)
    if "messages" not in present:
        raise DataInvalid(
            f"has no column 'messages'; it has {', '.join(present)}", location=FileLocation(file=str(path))
        )
    return [name for name in COLUMNS if name in present]


def json_rows(batch: Any) -> Iterator[bytes]:
    """Yields the rows of a pyarrow record batch as JSON."""
    import polars as pl

    lines = io.BytesIO()
    pl.DataFrame(pl.from_arrow(batch)).write_ndjson(lines)
    lines.seek(0)
    yield from lines


def columns_of(path: Path, *, max_row_bytes: int = MAX_ROW_BYTES) -> list[str]:
    """Returns the names of a file's columns, those of the first row for JSON; nothing if that row cannot be read."""
    import msgspec

    if path.suffix == ".parquet":
        return list(_parquet(path).schema_arrow.names)
    for _, line in read(path, max_row_bytes=max_row_bytes):
        try:
            row = {} if isinstance(line, RowInvalid) else msgspec.json.decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            row = {}
        return list(row) if isinstance(row, dict) else []
    return []
