from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlops import gate
from mlops.core.errors import PreconditionError


def rows(count: int) -> list[dict[str, Any]]:
    return [
        {"messages": [{"role": "user", "content": f"q{n}"}, {"role": "assistant", "content": f"a{n}"}]}
        for n in range(count)
    ]


def test_the_same_seed_draws_the_same_conversations_and_never_one_twice() -> None:
    first = gate.draw(rows(100), count=20, seed=1)

    assert first == gate.draw(rows(100), count=20, seed=1)
    assert first != gate.draw(rows(100), count=20, seed=2)
    assert len({sample.reference for sample in first}) == 20
    assert len(gate.draw(rows(3), count=20, seed=1)) == 3


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 40), st.integers(0, 9))
def test_who_takes_more_samples_keeps_the_first(size: int, few: int, more: int, seed: int) -> None:
    few, more = sorted((few, more))

    assert gate.draw(rows(size), count=more, seed=seed)[:few] == gate.draw(rows(size), count=few, seed=seed)


def test_rows_without_a_reference_are_no_samples() -> None:
    with pytest.raises(PreconditionError):
        gate.draw([{"messages": [{"role": "user", "content": "q"}]}], count=1, seed=1)


def test_the_last_answer_is_the_reference_and_not_in_the_request() -> None:
    sample = gate.draw(rows(1), count=1, seed=1)[0]

    request = gate.payload(sample, {"do_sample": False})
    assert request["input_data"]["input_string"] == [{"role": "user", "content": "q0"}]
    assert (sample.prompt, sample.reference) == ("q0", "a0")


def test_rows_are_read_from_a_split_that_is_there(tmp_path: Path) -> None:
    split = tmp_path / "test_gen.jsonl"
    with pytest.raises(PreconditionError, match=r"'test_gen\.jsonl' is not in"):
        gate.load_rows(split)
    split.write_text("\n".join(json.dumps(row) for row in rows(3)) + "\n\n", encoding="utf-8")

    assert gate.load_rows(split) == rows(3)
