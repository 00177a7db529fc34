"""What becomes of a rollout that died, decided by its records: no server."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlops.core.resources import Deployment, Endpoint
from mlops.ledger import Record, TrafficIntent, Verdict
from mlops.rollout.plan import Plan, traffic_at
from mlops.rollout.recovery import decide_recovery
from tests.support.records import record


def plan(before: dict[str, int], *, action: str = "deploy", slot: str = "green") -> Record:
    return record("plan", action=action, slot=slot, before=before, model="m", version="2")


def intent(**shares: int) -> Record:
    return record("traffic", wanted=shares, what="step")


def verdict(what: str, verdict: str, **facts: Any) -> Record:
    return record("verdict", what=what, verdict=verdict, **facts)


PASS = verdict("gate", "pass")
SKIPPED = verdict("skipped", "skipped")
LAST_SOAK = verdict("soak", "pass", share=100)


def endpoint(traffic: dict[str, int], mirror: dict[str, int] | None = None) -> Endpoint:
    return Endpoint(
        name="chat", state="Succeeded", auth_mode="key", scoring_url=None, traffic=traffic, mirror=mirror or {}
    )


def standing(*names: str, state: str = "Succeeded") -> list[Deployment]:
    return [
        Deployment(name=name, endpoint="chat", state=state, model="m", model_version="1", instance_type="s")
        for name in names
    ]


BLUE = {"blue": 100}
BOTH = standing("blue", "green")


@pytest.mark.parametrize(
    ("records", "now", "traffic", "outcome"),
    [
        ([record("begin")], BLUE, None, "abandoned"),
        ([record("begin"), plan(BLUE)], BLUE, None, "abandoned"),
        ([plan(BLUE), PASS], BLUE, None, "abandoned"),
        ([plan(BLUE), PASS, intent(blue=50, green=50)], BLUE, None, "restored"),
        ([plan(BLUE), PASS, intent(blue=50, green=50)], {"blue": 50, "green": 50}, BLUE, "restored"),
        ([plan(BLUE), PASS, intent(green=100)], {"green": 100}, BLUE, "restored"),
        ([plan(BLUE), PASS, intent(green=100), LAST_SOAK], {"green": 100}, None, "released"),
        ([plan(BLUE), SKIPPED, intent(green=100)], {"green": 100}, None, "released"),
        ([plan({}), PASS, intent(green=100)], {"green": 100}, {}, "restored"),
        ([plan({"green": 100}, action="rollback", slot="blue"), intent(blue=100)], {"green": 100}, BLUE, "rolled_back"),
    ],
)
def test_what_is_finished_and_what_is_undone(
    records: list[Record], now: dict[str, int], traffic: dict[str, int] | None, outcome: str
) -> None:
    found = decide_recovery(records, endpoint(now), BOTH)

    assert (found.traffic, found.outcome) == (traffic, outcome)


def test_traffic_that_the_records_do_not_explain_stays() -> None:
    records = [plan(BLUE), PASS, intent(blue=50, green=50)]

    assert decide_recovery(records, endpoint({"blue": 30, "green": 70}), BOTH).traffic is None


def test_a_mirror_is_taken_away() -> None:
    records = [plan(BLUE), PASS, intent(blue=100)]

    assert decide_recovery(records, endpoint(BLUE, {"green": 20}), BOTH).traffic == BLUE


def test_where_the_old_slot_is_gone_what_has_passed_the_gate_takes_over() -> None:
    records = [plan(BLUE), PASS, intent(blue=50, green=50)]
    half = endpoint({"blue": 50, "green": 50})

    assert decide_recovery(records, half, standing("green")).traffic == {"green": 100}
    assert decide_recovery(records[:1] + records[2:], half, standing("green")).traffic == {}


@pytest.mark.parametrize("state", ["Updating", "Scaling", "Failed", "Canceled"])
@pytest.mark.parametrize("now", [BLUE, {"blue": 90, "green": 10}])
def test_a_live_slot_keeps_its_traffic_whatever_its_last_update_came_to(state: str, now: dict[str, int]) -> None:
    records = [plan(BLUE), PASS, intent(blue=90, green=10)]
    held = [*standing("blue", state=state), *standing("green")]

    found = decide_recovery(records, endpoint(now), held)

    assert (found.traffic or now) == BLUE


def test_what_failed_a_soak_takes_nothing_over() -> None:
    records = [plan(BLUE), PASS, intent(blue=50, green=50), verdict("soak", "fail", share=50)]

    assert decide_recovery(records, endpoint({"blue": 50, "green": 50}), standing("green")).traffic == {}


def test_who_came_to_help_and_died_too_is_undone_by_the_newest_plan() -> None:
    first = [plan(BLUE), PASS, intent(blue=50, green=50)]
    helper = [record("begin"), intent(blue=100)]
    second = [plan(BLUE), PASS, intent(green=100)]

    assert decide_recovery([*first, *helper], endpoint({"blue": 50, "green": 50}), BOTH).traffic == BLUE
    assert decide_recovery([*first, *helper, *second], endpoint({"green": 100}), BOTH).traffic == BLUE


def test_without_an_endpoint_there_is_nothing_to_do() -> None:
    assert decide_recovery([plan(BLUE), PASS, intent(green=100)], None, []).traffic is None


STEPS = st.lists(st.integers(1, 99), unique=True, max_size=4).map(lambda found: (*sorted(found), 100))


def walk(live: str | None, slot: str, steps: tuple[int, ...], *, gate: str, soaks: int) -> list[Record]:
    """The records of a deploy, as far as its verdicts let it come."""
    before = {live: 100} if live else {}
    way = Plan(endpoint="chat", creates_endpoint=False, slot=slot, live=live, why="", before=before, steps=steps)
    records = [record("begin", action="deploy"), plan(before, slot=slot), verdict("gate", gate)]
    if gate != "pass":
        return records
    for index, share in enumerate(steps):
        wanted = traffic_at(way, share)
        records += [record("traffic", wanted=wanted), record("moved", traffic=wanted)]
        if index >= soaks:
            return records
        records.append(verdict("soak", "pass", share=share))
    return records


@given(
    live=st.sampled_from([None, "blue", "green"]),
    steps=STEPS,
    gate=st.sampled_from(["pass", "fail", "inconclusive"]),
    soaks=st.integers(0, 5),
    data=st.data(),
)
def test_wherever_it_dies_traffic_ends_whole_on_what_may_have_it(
    live: str | None, steps: tuple[int, ...], gate: str, soaks: int, data: st.DataObject
) -> None:
    """Cut anywhere, with the last intent carried out or not: afterwards all traffic is where it was, or on a slot that
    has passed everything; and to look again changes nothing."""
    slot = "green" if live == "blue" else "blue"
    steps = steps if live else (100,)
    records = walk(live, slot, steps, gate=gate, soaks=soaks)
    records = records[: data.draw(st.integers(1, len(records)))]
    before = {live: 100} if live else {}
    wished = [before, *(item.facts.desired or {} for item in records if isinstance(item.facts, TrafficIntent))]
    now = data.draw(st.sampled_from(wished[-2:]))

    found = decide_recovery(records, endpoint(now), BOTH)
    after = now if found.traffic is None else dict(found.traffic)

    assert sum(after.values()) in (0, 100)
    assert after in (before, {slot: 100})
    if after == {slot: 100} and after != before:
        assert any(
            item.facts.share == 100 and item.facts.verdict == "pass"
            for item in records[3:]
            if isinstance(item.facts, Verdict)
        )
    again = decide_recovery(records, endpoint(after), BOTH)
    assert again.traffic in (None, after)
