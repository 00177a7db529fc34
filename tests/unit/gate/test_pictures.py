from __future__ import annotations

import itertools
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlops import gate
from mlops.gate.pictures import draw, spread
from tests.unit.gate.made import STRICT, answer, judged, released

PNG = b"\x89PNG\r\n\x1a\n"


def test_there_is_a_picture_for_each_thing_to_see(tmp_path: Path) -> None:
    found = draw(released(), tmp_path)

    assert [path.name for path in found] == ["latency.png", "scores.png", "traffic.png"]
    assert all(path.read_bytes()[:8] == PNG for path in found)


def test_what_was_not_measured_is_not_drawn(tmp_path: Path) -> None:
    assert draw(judged(STRICT, [answer(None)]), tmp_path) == []
    assert [path.name for path in draw(judged(STRICT, [answer("a")]), tmp_path)] == ["latency.png"]


@pytest.mark.parametrize("traffic", [{}, {"blue": 0}, {"blue": 100}, {"red": 20, "grey": 30, "pink": 50}])
def test_any_traffic_and_a_single_moment_can_be_drawn(tmp_path: Path, traffic: dict[str, int]) -> None:
    report = released()
    moments = (gate.Moment(at=report.timeline[0].at, traffic=traffic, what="$x_1$ begins", verdict="fail"),)

    for timeline in (moments, (*moments, replace(moments[0], at=moments[0].at + timedelta(hours=2)))):
        assert "traffic.png" in [path.name for path in draw(replace(report, timeline=timeline), tmp_path)]


@given(st.lists(st.floats(0, 100), max_size=12).map(sorted))
def test_labels_keep_their_distance_and_their_order(places: list[float]) -> None:
    found = spread(places, 100)

    assert len(found) == len(places)
    assert all(after - before >= 5 - 1e-9 for before, after in itertools.pairwise(found))
    assert all(place <= 100 + 1e-9 for place in found)
