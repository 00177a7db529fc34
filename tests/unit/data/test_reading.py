"""Every kind of file that people have, and every way in which one can be broken."""

import gzip
import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from mlops.core.errors import DataInvalid
from mlops.data import validate
from mlops.data.reading import count, read
from mlops.data.rules import RowInvalid


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for _, line in read(path) if isinstance(line, bytes)]


def prompts(path: Path) -> list[str]:
    return [row["prompt"] for row in rows_of(path)]


def violations(path: Path, **how: Any) -> dict[str, tuple[int, int | None]]:
    report = validate([path], **how)
    return {violation.rule: (violation.count, violation.first.line) for violation in report.violations}


def test_json_lines_with_everything_that_is_allowed(write: Any, chat: Any) -> None:
    rows = [chat(f"q{index} \u2028 é", "a") for index in range(3)]
    raw = b"\xef\xbb\xbf" + "\r\n\n  \n".join(json.dumps(row, ensure_ascii=False) for row in rows).encode()
    path = write("train.jsonl", raw)
    assert prompts(path) == [row["prompt"] for row in rows]
    assert [number for number, _ in read(path)] == [1, 4, 7]
    assert count(path) == 3
    assert not violations(path)


def test_packed_json_lines(write: Any, many: Any) -> None:
    raw = "".join(json.dumps(row) + "\n" for row in many(5)).encode()
    packed = gzip.compress(raw)
    assert len(prompts(write("train.jsonl.gz", packed))) == 5
    with pytest.raises(DataInvalid, match="cannot be unpacked"):
        list(read(write("cut.jsonl.gz", packed[:-20])))
    with pytest.raises(DataInvalid, match="cannot be unpacked"):
        list(read(write("none.jsonl.gz", raw)))


@pytest.mark.parametrize("wrap", ["{}", '{{"version": 1, "data": {}}}', '{{"rows": {}}}'])
def test_json_documents(write: Any, many: Any, wrap: Any) -> None:
    text = wrap.format(json.dumps(many(3), indent=1))
    path = write("train.json", text.encode())
    assert prompts(path) == [row["prompt"] for row in many(3)]
    lines = text.splitlines()
    for number, line in read(path):
        assert lines[number - 1].strip().startswith("{"), line


def test_json_lines_under_the_name_of_a_document(write: Any, many: Any) -> None:
    assert len(prompts(write("train.json", "".join(json.dumps(row) + "\n" for row in many(3)).encode()))) == 3


@pytest.mark.parametrize("raw", [b"[{]", b"{}", b'{"data": 5}', b"[]", b"7", b"[1, 2"])
def test_broken_json_documents(write: Any, raw: bytes) -> None:
    with pytest.raises(DataInvalid):
        list(read(write("train.json", raw)))


def test_parquet_and_arrow(write: Any, many: Any, tmp_path: Path) -> None:
    import datasets
    import pyarrow.parquet as pq

    rows = many(1300)
    table = datasets.Dataset.from_list([{**row, "score": 1.5} for row in rows])
    pq.write_table(table.data.table, tmp_path / "train.parquet")
    table.save_to_disk(tmp_path / "saved/train")
    arrow = next((tmp_path / "saved/train").glob("*.arrow"))
    for path in (tmp_path / "train.parquet", arrow):
        assert rows_of(path) == rows
        assert count(path) == 1300
        report = validate([path])
        assert not report.violations
        assert report.ignored_columns == (("score",) if path.suffix == ".parquet" else ())


def test_nulls_in_parquet_break_a_rule(chat: Any, tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [chat("q", "a"), chat("r", "a", prompt=None), chat("s", None), chat("t", "a", messages=None)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "train.parquet")
    assert violations(tmp_path / "train.parquet") == {"schema": (3, 2)}


def test_broken_parquet(write: Any, many: Any, tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.Table.from_pylist(many(100)), tmp_path / "good.parquet")
    raw = (tmp_path / "good.parquet").read_bytes()
    with pytest.raises(DataInvalid, match="not a whole parquet file"):
        list(read(write("cut.parquet", raw[: len(raw) // 2])))
    with pytest.raises(DataInvalid, match="not a whole parquet file"):
        count(write("text.parquet", b"no parquet at all"))
    pq.write_table(pa.table({"text": ["a"]}), tmp_path / "other.parquet")
    with pytest.raises(DataInvalid, match="no column 'messages'; it has text"):
        list(read(tmp_path / "other.parquet"))


def test_a_file_of_no_bytes(write: Any) -> None:
    for name in ("train.jsonl", "train.json", "train.parquet", "train.jsonl.gz"):
        with pytest.raises(DataInvalid, match="0 bytes") as caught:
            list(read(write(name, b"")))
        assert str(caught.value.location).endswith(name)


def test_a_file_of_blank_lines(write: Any) -> None:
    with pytest.raises(DataInvalid, match="holds no row"):
        list(read(write("train.jsonl", b"\n \r\n\n")))


def test_a_last_line_that_breaks_off(write: Any, many: Any) -> None:
    raw = "".join(json.dumps(row) + "\n" for row in many(3)).encode()
    assert violations(write("cut.jsonl", raw[:-20])) == {"truncated": (1, 3)}
    # Only the newline is missing: nothing is lost.
    assert violations(write("whole.jsonl", raw[:-1])) == {}


def test_broken_json_in_the_middle(write: Any, many: Any) -> None:
    rows = [json.dumps(row) for row in many(4)]
    rows[1] = rows[1][:-9]
    rows[2] = "not json"
    assert violations(write("train.jsonl", "\n".join(rows).encode())) == {"json": (2, 2)}


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-32"])
def test_other_encodings_as_a_whole(write: Any, many: Any, encoding: Any) -> None:
    with pytest.raises(DataInvalid, match="UTF-16 or UTF-32"):
        list(read(write("train.jsonl", json.dumps(many(1)[0]).encode(encoding))))


def test_latin_1(write: Any, chat: Any) -> None:
    rows = [chat("plain", "a"), chat("é", "ü")]
    raw = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode("latin-1")
    assert violations(write("train.jsonl", raw)) == {"encoding": (1, 2)}


@pytest.mark.parametrize("raw", [b"PAR1....", b"\x1f\x8b....", b"PK\x03\x04...", b"(\xb5/\xfd..."])
def test_another_kind_of_file_under_this_name(write: Any, raw: bytes) -> None:
    with pytest.raises(DataInvalid, match="not JSON lines"):
        list(read(write("train.jsonl", raw)))


def test_a_row_of_50_mb_is_not_read_into_memory(write: Any, chat: Any) -> None:
    giant = chat("q" * 50_000_000, "a")
    raw = b"".join(json.dumps(row).encode() + b"\n" for row in (chat("a", "b"), giant, chat("c", "d")))
    path = write("train.jsonl", raw)
    del giant, raw
    tracemalloc.start()
    try:
        rows = list(read(path))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert [isinstance(line, RowInvalid) for _, line in rows] == [False, True, False]
    assert "100,000," in str(rows[1][1])
    assert peak < 30_000_000
    assert violations(path) == {"too_long": (1, 2)}
    assert violations(path, max_row_bytes=200_000_000) == {}


def test_the_limit_is_a_setting(write: Any, many: Any) -> None:
    path = write("train.jsonl", many(2))
    assert violations(path, max_row_bytes=100) == {"too_long": (2, 1)}


def test_parquet_is_never_held_whole(write: Any, many: Any, tmp_path: Path) -> None:
    import random

    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = many(8_000)
    for row in rows:
        row["messages"][1]["content"] = random.Random(row["prompt"]).randbytes(2_500).hex()
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "train.parquet", row_group_size=len(rows))
    del rows
    before = most = pa.total_allocated_bytes()
    for _ in read(tmp_path / "train.parquet"):
        most = max(most, pa.total_allocated_bytes())
    assert (tmp_path / "train.parquet").stat().st_size > 20_000_000
    assert most - before < 20_000_000
