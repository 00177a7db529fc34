"""Loss curves become paths: within the picture, in their order, whatever the numbers are."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from mlops.ui.charts import MOST, chart, thinned, ticks

LOSSES = st.floats(allow_nan=True, allow_infinity=True, width=32)
POINTS = st.lists(st.tuples(st.integers(0, 10**7), LOSSES), min_size=1, max_size=60)


def test_both_losses_are_drawn_and_nothing_else() -> None:
    picture = chart({"eval_loss": [(10, 0.5)], "train_loss": [(1, 1.0), (10, 0.25)], "learning_rate": [(1, 5e-6)]})

    assert picture is not None
    assert [(curve.name, len(curve.marks), curve.last) for curve in picture.curves] == [
        ("train", 2, 0.25),
        ("eval", 1, 0.5),
    ]
    train = picture.curves[0]
    assert train.marks[0].x < train.marks[1].x
    assert train.marks[0].y < train.marks[1].y  # down is up in a picture
    assert [tick.label for tick in picture.up] == ["0", "0.2", "0.4", "0.6", "0.8", "1"]


def test_there_is_no_picture_of_nothing() -> None:
    assert chart({}) is None
    assert chart({"train_loss": []}) is None
    assert chart({"train_loss": [(1, math.nan), (2, math.inf)]}) is None
    assert chart({"accuracy": [(1, 0.5)]}) is None


@given(POINTS, POINTS)
def test_every_point_lies_in_the_picture(train: list[tuple[int, float]], evaluated: list[tuple[int, float]]) -> None:
    picture = chart({"train_loss": sorted(train, key=lambda p: p[0]), "eval_loss": evaluated})
    for curve in picture.curves if picture else ():
        for mark in curve.marks:
            assert picture is not None
            assert picture.left - 0.1 <= mark.x <= picture.right + 0.1
            assert picture.top - 0.1 <= mark.y <= picture.bottom + 0.1


@given(st.integers(1, 5000))
def test_a_long_run_keeps_its_ends(count: int) -> None:
    points = [(step, 1.0) for step in range(count)]
    some = thinned(points)

    assert (some[0], some[-1]) == (points[0], points[-1])
    assert len(some) <= MOST + 1


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6))
def test_ticks_cover_what_is_drawn(low: float, span: float) -> None:
    values = ticks(low, low + span, most=5)

    assert values[0] <= low + 1e-9 * max(abs(low), span)  # a denormal is drawn at 0
    assert values[-1] >= low + span - 1e-5 * span - 1e-9 * abs(low)
    assert 2 <= len(values) <= 9
