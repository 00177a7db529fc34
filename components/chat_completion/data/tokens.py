"""Tokenised conversations on disk: one Arrow file per split, read through a memory map.

Memory stays flat whatever the size: rows are written in batches, and a row is read when it is asked for.
"""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from chat_completion.common.refusal import Refusal

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


def schema() -> Any:
    """The columns of a token file."""
    import pyarrow as pa

    tokens = pa.list_(pa.field("item", pa.int32(), nullable=False))
    return pa.schema(
        [("input_ids", tokens), ("labels", tokens), ("length", pa.int32()), ("truncated", pa.bool_())],
    )


def batch_of(input_ids: Sequence[Any], labels: Sequence[Any], truncated: Sequence[bool]) -> Any:
    """A record batch.

    Args:
        input_ids: per conversation, a vector of its tokens (an int32 array of NumPy's, or a list).
        labels: per conversation, as long a vector of its labels.
        truncated: per conversation, whether its end was cut off.
    """
    import numpy as np
    import pyarrow as pa

    lengths = np.fromiter((len(ids) for ids in input_ids), dtype=np.int32, count=len(input_ids))
    offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32))
    kinds = schema()

    def column(rows: Sequence[Any], kind: Any) -> Any:
        values = np.concatenate(rows).astype(np.int32, copy=False) if len(rows) else np.empty(0, np.int32)
        return pa.ListArray.from_arrays(offsets, pa.array(values), type=kind)

    columns = [
        column(input_ids, kinds.field("input_ids").type),
        column(labels, kinds.field("labels").type),
        pa.array(lengths),
        pa.array(truncated, pa.bool_()),
    ]
    return pa.record_batch(columns, schema=kinds)


class TokenWriter:
    """Writes examples; the file appears under its name when the writer is closed without an error."""

    def __init__(self, path: Path) -> None:
        import pyarrow as pa

        self._path = path
        self._beside = path.with_name(f".{path.name}.part")
        self._writer = pa.ipc.new_file(str(self._beside), schema())

    def add(self, batch: Any) -> None:
        """Takes one record batch of `batch_of`."""
        self._writer.write_batch(batch)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._writer.close()
        if kind is None:
            self._beside.rename(self._path)
        else:
            self._beside.unlink(missing_ok=True)


class TokenFile(Sequence[Example]):
    """A split that `TokenWriter` wrote.

    Attributes:
        lengths: tokens of each conversation; known without reading any.
    """

    def __init__(self, path: Path) -> None:
        """Opens it.

        Raises:
            Refusal: where there is no such file.
        """
        import pyarrow as pa

        if not path.is_file():
            raise Refusal(f"no file at '{path}'")
        self._path = path
        reader = pa.ipc.open_file(pa.memory_map(str(path)))
        # These are views into the file: what they hold is read when it is touched.
        self._batches = [reader.get_batch(index) for index in range(reader.num_record_batches)]
        self._starts = [0, *accumulate(batch.num_rows for batch in self._batches)]
        self.lengths: list[int] = [length for batch in self._batches for length in batch.column(2).to_pylist()]

    def __len__(self) -> int:
        return len(self.lengths)

    def _row(self, index: int) -> tuple[Any, int]:
        if not 0 <= index < len(self):
            raise IndexError(index)
        number = bisect_right(self._starts, index) - 1
        return self._batches[number], index - self._starts[number]

    def arrays(self, index: int) -> tuple[Any, Any]:
        """A conversation's tokens and labels as int32 arrays of NumPy's, read-only, without a copy."""
        batch, row = self._row(index)
        ids, labels = (batch.column(column)[row].values.to_numpy() for column in (0, 1))
        return ids, labels

    def __getitem__(self, index: Any) -> Any:
        ids, labels = self.arrays(index)
        batch, row = self._row(index)
        return Example(ids.tolist(), labels.tolist(), batch.column(3)[row].as_py())

    def __reduce__(self) -> tuple[type["TokenFile"], tuple[Path]]:
        # A data loader's worker opens the file for itself.
        return TokenFile, (self._path,)
