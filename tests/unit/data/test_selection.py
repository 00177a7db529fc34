import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlops.data.selection import cut, first_rows


@given(st.integers(0, 3000), st.integers(-(10**30), 10**30))
def test_a_cut_is_exact_and_repeats(rows: int, seed: int) -> None:
    sides = cut(rows, seed=seed)
    assert len(sides) == rows
    assert sum(sides) == -(-rows // 5)
    assert set(sides) <= {0, 1}
    assert sides == cut(rows, seed=seed)


def test_another_seed_cuts_otherwise() -> None:
    assert cut(1000, seed=1) != cut(1000, seed=2)


def test_a_cut_never_changes() -> None:
    # Training jobs are named after the data: these bytes must outlive every upgrade.
    assert cut(20, seed=42).hex() == "0100000000010000000000000100000000000100"


@pytest.mark.parametrize(
    ("rows", "percent", "taken"), [(207_865, 5, 10_393), (207_865, 100, 207_865), (207_865, 1, 2_079), (10, 0.1, 0)]
)
def test_a_percentage_is_rounded_as_datasets_rounds_it(rows: int, percent: float, taken: int) -> None:
    assert first_rows(rows, percent) == taken


@given(st.integers(0, 10**6), st.floats(0.001, 100))
def test_a_percentage_never_takes_more_than_there_is(rows: int, percent: float) -> None:
    assert 0 <= first_rows(rows, percent) <= rows
