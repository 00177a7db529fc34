"""Traffic maps: pure decisions."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlops.local.serving.durations import seconds
from mlops.local.serving.traffic import Share, Split, canonical, refusal

TWO = {"blue": "Succeeded", "green": "Succeeded"}


@pytest.mark.parametrize(
    ("traffic", "mirror", "said"),
    [
        ({"blue": 50}, {}, "0 or 100, but it is 50"),
        ({"blue": 60, "green": 60}, {}, "0 or 100, but it is 120"),
        ({"red": 100}, {}, "'red', which does not exist"),
        ({"red": 0}, {}, "'red', which does not exist"),
        ({"blue": -1, "green": 101}, {}, "whole number"),
        ({"blue": 99.5, "green": 0.5}, {}, "whole number"),
        ({"blue": True}, {}, "whole number"),
        ({"blue": 100}, {"green": 51}, "at most 50 %"),
        ({"blue": 100}, {"blue": 10}, "has live traffic"),
        ({"blue": 0}, {"blue": 10, "green": 10}, "one deployment only"),
        ({"blue": 100, "BLUE": 0}, {}, "twice"),
        ([], {}, "object"),
    ],
)
def test_refused_maps(traffic: Any, mirror: Any, said: Any) -> None:
    assert said in (refusal(traffic, mirror, deployments=TWO) or "")


@pytest.mark.parametrize(
    ("traffic", "mirror"),
    [
        ({}, {}),
        ({"blue": 0}, {}),
        ({"blue": 100}, {"green": 50}),
        ({"BLUE": 30, "green": 70}, {}),
        ({"blue": 100}, {"blue": 0}),
    ],
)
def test_allowed_maps(traffic: Any, mirror: Any) -> None:
    assert refusal(traffic, mirror, deployments=TWO) is None


def test_a_deployment_that_is_not_ready_gets_no_new_traffic_but_keeps_what_it_has() -> None:
    states = {"blue": "Failed", "green": "Succeeded"}
    assert "provisioning state is 'Failed'" in (refusal({"blue": 100}, {}, deployments=states) or "")
    assert refusal({"blue": 90, "green": 10}, {}, deployments=states, live={"blue": 100}) is None


@given(
    st.dictionaries(st.sampled_from(["blue", "green", "red", "Blue"]), st.integers(-10, 130), max_size=4),
    st.dictionaries(st.sampled_from(["blue", "green", "red"]), st.integers(-10, 130), max_size=2),
)
def test_what_is_allowed_always_holds_the_rules(traffic: Any, mirror: Any) -> None:
    if refusal(traffic, mirror, deployments=TWO) is None:
        assert sum(traffic.values()) in (0, 100)
        assert {name.lower() for name in traffic} <= set(TWO)
        assert all(weight <= 50 for weight in mirror.values())
        live = {name.lower() for name, weight in traffic.items() if weight}
        assert not live & {name.lower() for name, weight in mirror.items() if weight}


@given(st.integers(0, 100))
def test_every_hundred_requests_fall_as_the_percentages_say(weight: Any) -> None:
    split = Split({"blue": weight, "green": 100 - weight})
    for _ in range(3):
        chosen = Counter(split.next() for _ in range(100))
        assert (chosen["blue"], chosen["green"]) == (weight, 100 - weight)


@given(st.lists(st.integers(0, 40), min_size=1, max_size=5))
def test_no_deployment_waits_long_for_its_share(weights: Any) -> None:
    named = {f"d{index}": weight for index, weight in enumerate(weights)}
    split, total = Split(named), sum(weights)
    if not total:
        assert split.next() is None
        return
    seen: Counter[str | None] = Counter()
    for count in range(1, 2 * total + 1):
        seen[split.next()] += 1
        for name, weight in named.items():
            assert abs(seen[name] - count * weight / total) < len(weights) + Split.HAND
        if count % Split.HAND == 0:
            assert all(abs(seen[name] - count * part / total) < len(weights) for name, part in named.items())


def test_who_comes_with_every_fifth_request_meets_every_deployment() -> None:
    split = Split({"blue": 90, "green": 10})
    everyone = [split.next() for _ in range(1000)]
    assert set(everyone[4::5]) == set(everyone[3::5]) == {"blue", "green"}


@given(st.integers(0, 50))
def test_mirror_share(percent: Any) -> None:
    share = Share(percent)
    assert sum(share.next() for _ in range(200)) == 2 * percent


def test_names_as_they_were_made() -> None:
    assert canonical({"blue": 100, "other": 0}, ["Blue"]) == {"Blue": 100, "other": 0}


@pytest.mark.parametrize(
    ("text", "value"), [("PT5S", 5), ("PT1M30S", 90), ("PT10M", 600), ("P1DT1H", 90000), ("PT0.5S", 0.5)]
)
def test_durations(text: Any, value: Any) -> None:
    assert seconds(text) == value


@pytest.mark.parametrize("text", ["", "5", "PT", "P", "5S", None, 5, "PT-5S", "PT5"])
def test_what_is_no_duration(text: Any) -> None:
    with pytest.raises(ValueError, match="ISO 8601"):
        seconds(text)
