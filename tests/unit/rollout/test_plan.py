from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlops.config.settings import SLOTS, load
from mlops.core.errors import PreconditionError
from mlops.core.resources import Deployment, Endpoint
from mlops.rollout.plan import choose_slot, make_plan, preview_name, traffic_at
from tests.support.checkout import ROOT

SETTINGS = load("production", ROOT / "mlops.yaml")


def endpoint(traffic: dict[str, int], *, state: str = "Succeeded") -> Endpoint:
    return Endpoint(name="chat", state=state, auth_mode="key", scoring_url="https://chat", traffic=traffic)


def slot(name: str, *, state: str = "Succeeded", version: str = "1", day: int = 1) -> Deployment:
    return Deployment(
        name=name,
        endpoint="chat",
        state=state,
        model="m",
        model_version=version,
        instance_type="s",
        created=datetime(2026, 1, day, tzinfo=UTC),
    )


def test_the_first_version_goes_into_blue() -> None:
    assert choose_slot(None, [])[:2] == ("blue", None)


@pytest.mark.parametrize(("live", "idle"), [("blue", "green"), ("green", "blue")])
def test_the_idle_slot_is_the_one_without_traffic(live: str, idle: str) -> None:
    found = endpoint({live: 100, idle: 0})

    assert choose_slot(found, [slot("blue"), slot("green")])[:2] == (idle, live)
    assert choose_slot(found, [slot(live)])[:2] == (idle, live)


def test_split_traffic_is_ambiguous() -> None:
    with pytest.raises(PreconditionError, match="blue 90 %"):
        choose_slot(endpoint({"blue": 90, "green": 10}), [slot("blue"), slot("green")])


def test_with_nothing_live_the_empty_slot_then_the_older_one_is_taken() -> None:
    assert choose_slot(endpoint({}), [slot("blue")])[0] == "green"
    assert choose_slot(endpoint({}), [slot("blue", day=3), slot("green", day=2)])[0] == "green"


def test_a_deployment_of_another_name_stays_live_until_the_gate_has_passed() -> None:
    assert choose_slot(endpoint({"demo": 100}), [slot("demo")])[:2] == ("blue", "demo")


def test_an_endpoint_that_somebody_changes_is_left_alone() -> None:
    with pytest.raises(PreconditionError, match="Updating"):
        make_plan(SETTINGS, "chat", endpoint({"blue": 100}, state="Updating"), [slot("blue")])


traffic_maps: st.SearchStrategy[dict[str, int]] = st.one_of(
    st.just({}), st.sampled_from(SLOTS).map(lambda name: {name: 100})
)


@given(traffic_maps, st.sets(st.sampled_from(SLOTS)), st.booleans())
def test_every_step_sums_to_100_and_only_ever_raises_the_new_slot(
    traffic: dict[str, int], standing: set[str], exists: bool
) -> None:
    found = endpoint(traffic) if exists or traffic else None
    held = [slot(name) for name in sorted(standing | set(traffic))]
    plan = make_plan(SETTINGS, "chat", found, held)
    maps = [traffic_at(plan, share) for share in plan.steps]

    assert all(sum(item.values()) == 100 for item in maps)
    assert [item[plan.slot] for item in maps] == sorted(item[plan.slot] for item in maps)
    assert maps[-1] == {plan.slot: 100}
    assert plan.slot != plan.live
    assert plan.before == traffic
    # the way back: what the rollout recorded is the map that was there
    assert (plan.before or {plan.slot: 0}).get(plan.live or plan.slot) == (100 if plan.live else 0)


def test_a_slot_that_somebody_deploys_to_is_left_alone() -> None:
    with pytest.raises(PreconditionError, match="another deploy is under way"):
        make_plan(SETTINGS, "chat", endpoint({"blue": 100}), [slot("blue"), slot("green", state="Updating")])


def test_a_preview_is_named_with_whole_seconds() -> None:
    name = preview_name(SETTINGS, datetime(2026, 11, 20, tzinfo=UTC))

    assert name == "ultrachat-completion-1795132800"
    assert len(name) <= 32
