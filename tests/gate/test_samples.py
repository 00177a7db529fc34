from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlops import gate
from mlops.errors import PreconditionError


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
