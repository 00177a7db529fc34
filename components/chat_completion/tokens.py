"""Tokenised conversations on disk: one Arrow file per split, read through a memory map.

Memory stays flat whatever the size: rows are written in batches, and a row is read when it is asked for.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

IGNORED = -100
"""The label that PyTorch's cross entropy leaves out."""


@dataclass(frozen=True)
class Example:
    """One conversation, tokenised.

    Attributes:
        input_ids: its tokens.
        labels: the same, with `IGNORED` where no loss is taken.
        truncated: whether its end was cut off.
    """

    input_ids: list[int]
    labels: list[int]
    truncated: bool = False


class TokenWriter:
    """Writes examples; the file appears under its name when the writer is closed without an error."""

    def __init__(self, path: Path, *, batch_rows: int) -> None:
        import pyarrow as pa

        self._path = path
        self._beside = path.with_name(f".{path.name}.part")
        self._batch_rows = batch_rows
        self._schema = pa.schema(
            [
                ("input_ids", pa.list_(pa.int32())),
                ("labels", pa.list_(pa.int32())),
                ("length", pa.int32()),
                ("truncated", pa.bool_()),
            ],
            metadata={"batch_rows": str(batch_rows)},
        )
        self._waiting: list[Example] = []
        self._writer = pa.ipc.new_file(str(self._beside), self._schema)

    def add(self, example: Example) -> None:
        """Takes one example."""
        self._waiting.append(example)
        if len(self._waiting) == self._batch_rows:
            self._flush()

    def _flush(self) -> None:
        import pyarrow as pa

        if not self._waiting:
            return
        columns: list[list[Any]] = [
            [example.input_ids for example in self._waiting],
            [example.labels for example in self._waiting],
            [len(example.input_ids) for example in self._waiting],
            [example.truncated for example in self._waiting],
        ]
        arrays = [pa.array(column, field.type) for column, field in zip(columns, self._schema, strict=True)]
        self._writer.write_batch(pa.record_batch(arrays, schema=self._schema))
        self._waiting.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._flush()
        self._writer.close()
        if kind is None:
            self._beside.rename(self._path)
        else:
            self._beside.unlink(missing_ok=True)


class TokenFile(Sequence[Example]):
    """A split that `TokenWriter` wrote."""

    def __init__(self, path: Path) -> None:
        import pyarrow as pa

        self._path = path
        self._reader = pa.ipc.open_file(pa.memory_map(str(path)))
        self._batch_rows = int(self._reader.schema.metadata[b"batch_rows"])
        self.lengths: list[int] = [length for batch in self._batches() for length in batch.column(2).to_pylist()]

    def _batches(self) -> Iterator[Any]:
        for index in range(self._reader.num_record_batches):
            yield self._reader.get_batch(index)

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index: Any) -> Any:
        if not 0 <= index < len(self):
            raise IndexError(index)
        # Every batch but the last holds `batch_rows` rows, so a row's place is a division.
        batch = self._reader.get_batch(index // self._batch_rows)
        ids, labels, _, truncated = (column[index % self._batch_rows].as_py() for column in batch.columns)
        return Example(ids, labels, truncated)

    def __reduce__(self) -> tuple[type["TokenFile"], tuple[Path]]:
        # A data loader's worker opens the file for itself.
        return TokenFile, (self._path,)
