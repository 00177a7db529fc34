from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlops.cleanup import Rollouts, Rules, Saving, decide, decide_cluster, decide_versions, saving
from mlops.cleanup.inventory import EndpointState, created
from mlops.cleanup.survey import summarise_records
from mlops.core.resources import Cluster, Deployment, Endpoint, ModelVersion
from mlops.ledger import Kind, Record
from tests.support import records as made

NOW = datetime(2026, 11, 20, tzinfo=UTC)
PREFIX = "ultrachat-completion-"
LASTING = "ultrachat-completion"
OURS = {"managed-by": "mlops"}
PRICES = {"Standard_NC24ads_A100_v4": 3.673}
SIZE = "STANDARD_NC24ADS_A100_V4"
RULES = Rules(
    lasting=LASTING,
    prefix=PREFIX,
    older_than=timedelta(days=7),
    grace=timedelta(hours=24),
    failed_after=timedelta(hours=1),
    now=NOW,
    prices_per_hour=PRICES,
)


def slot(name: str = "blue", *, age: timedelta = timedelta(days=30), **values: Any) -> Deployment:
    fields = {"state": "Succeeded", "tags": OURS, "changed": NOW - age, **values}
    return Deployment(
        name=name, endpoint="e", model="chat", model_version="1", instance_type=SIZE, instance_count=1, **fields
    )


def endpoint(name: str, tags: Mapping[str, str], **values: Any) -> Endpoint:
    fields = {"state": "Succeeded", "traffic": {"blue": 100}, **values}
    return Endpoint(name=name, auth_mode="key", scoring_url=None, tags=tags, **fields)


def preview(age: timedelta, *slots: Deployment, tags: Mapping[str, str] | None = None, **values: Any) -> EndpointState:
    marks = {**OURS, "mlops-kind": "preview", **(tags or {})}
    name = f"{PREFIX}{int((NOW - age).timestamp())}"
    return EndpointState(endpoint=endpoint(name, marks, **values), slots=slots or (slot(),))


def lasting(*slots: Deployment, **values: Any) -> EndpointState:
    return EndpointState(endpoint=endpoint(LASTING, {**OURS, "mlops-kind": "lasting"}, **values), slots=slots)


def stale(inventory: EndpointState, rollouts: Rollouts | None = None, rules: Rules = RULES) -> list[str]:
    return [item.title for item in decide(inventory, rollouts or Rollouts(), rules) if item.stale]


def why(inventory: EndpointState, title: str, rollouts: Rollouts | None = None) -> str:
    return next(item.why for item in decide(inventory, rollouts or Rollouts(), RULES) if item.title == title)


def test_an_old_preview_is_stale_and_a_young_one_is_not() -> None:
    old = preview(timedelta(days=8))

    assert stale(old) == [old.endpoint.name]
    assert stale(preview(timedelta(days=6))) == []


@pytest.mark.parametrize(
    ("inventory", "rollouts"),
    [
        (preview(timedelta(days=8), tags={"Keep": ""}), Rollouts()),
        (preview(timedelta(days=8), slot(tags={**OURS, "keep": "no"})), Rollouts()),
        (preview(timedelta(days=8), slot(tags={})), Rollouts()),
        (preview(timedelta(days=8), slot(state="Creating")), Rollouts()),
        (preview(timedelta(days=8), state="Updating"), Rollouts()),
        (preview(timedelta(days=8), tags={"managed-by": "somebody"}), Rollouts()),
        (preview(timedelta(days=8)), Rollouts(locked=True)),
        (preview(timedelta(days=8)), Rollouts(problem="no answer")),
        (dataclasses.replace(preview(timedelta(days=8)), slots=(), problem="no answer"), Rollouts()),
    ],
    ids=["keep", "slot-keep", "slot-foreign", "slot-busy", "busy", "foreign", "held", "unknown-records", "unknown"],
)
def test_an_old_preview_is_protected(inventory: EndpointState, rollouts: Rollouts) -> None:
    assert stale(inventory, rollouts) == []


def test_a_rollout_that_died_does_not_keep_an_old_preview() -> None:
    old = preview(timedelta(days=8))

    assert stale(old, Rollouts(unfinished=True)) == [old.endpoint.name]


def test_an_idle_slot_goes_after_its_grace() -> None:
    inventory = lasting(slot("blue"), slot("green"))

    assert stale(inventory) == [f"{LASTING}/green"]
    assert stale(inventory, Rollouts(idle_since={"green": NOW - timedelta(hours=25)})) == [f"{LASTING}/green"]
    assert stale(inventory, Rollouts(idle_since={"Green": NOW - timedelta(hours=23)})) == []
    assert why(inventory, f"{LASTING}/blue") == "live, 100 %"


def test_a_slot_that_was_deployed_to_after_it_lost_its_traffic_has_its_own_grace() -> None:
    inventory = lasting(slot("blue"), slot("green", age=timedelta(hours=2)))

    assert stale(inventory, Rollouts(idle_since={"green": NOW - timedelta(days=9)})) == []


@pytest.mark.parametrize("rollouts", [Rollouts(locked=True), Rollouts(unfinished=True), Rollouts(problem="no answer")])
def test_nothing_of_an_endpoint_goes_while_a_rollout_is_under_way(rollouts: Rollouts) -> None:
    assert stale(lasting(slot("blue"), slot("green"), slot("red", state="Failed")), rollouts) == []


def test_a_failed_slot_is_left_for_an_hour_whatever_its_grace() -> None:
    def failed(age: timedelta) -> EndpointState:
        return lasting(slot("blue"), slot("green", age=age, state="Failed"))

    assert stale(failed(timedelta(minutes=50))) == []
    assert stale(failed(timedelta(minutes=70))) == [f"{LASTING}/green"]
    live = endpoint(LASTING, OURS, traffic={"GREEN": 1})
    assert stale(dataclasses.replace(failed(timedelta(days=2)), endpoint=live)) == [f"{LASTING}/blue"]


def test_mirrored_traffic_protects_a_slot() -> None:
    assert stale(lasting(slot("blue"), slot("green"), mirror={"green": 5})) == []


NAMES = st.sampled_from([LASTING, "Ultrachat-Completion", f"{PREFIX}1", f"{PREFIX}1700000000", "demo", f"{PREFIX}x"])
TAGS = st.dictionaries(
    st.sampled_from(["managed-by", "mlops-kind", "keep", "KEEP", "mlops-created"]),
    st.sampled_from(["mlops", "preview", "lasting", "", "yes", "2020-01-01T00:00:00", "nonsense"]),
)
STATES = st.sampled_from(["Succeeded", "Failed", "Updating", "Creating", "Deleting"])
SHARES = st.dictionaries(st.sampled_from(["blue", "Blue", "green"]), st.integers(0, 100))
MOMENTS = st.none() | st.datetimes(datetime(2026, 1, 1), datetime(2026, 11, 20)).map(
    lambda moment: moment.replace(tzinfo=UTC)
)
SLOTS = st.lists(
    st.builds(
        slot, st.sampled_from(["blue", "green", "demo"]), state=STATES, tags=TAGS, changed=MOMENTS, created=MOMENTS
    ),
    unique_by=lambda item: item.name,
    max_size=3,
)
ROLLOUTS = st.builds(
    Rollouts,
    locked=st.booleans(),
    unfinished=st.booleans(),
    idle_since=st.dictionaries(st.sampled_from(["blue", "green"]), MOMENTS.filter(bool)),
    problem=st.none() | st.just("no answer"),
)


@given(NAMES, TAGS, STATES, SHARES, SHARES, SLOTS, ROLLOUTS, st.timedeltas(timedelta(0), timedelta(days=9)))
def test_what_is_protected_is_never_selected(
    name: str,
    tags: dict[str, str],
    state: str,
    traffic: dict[str, int],
    mirror: dict[str, int],
    slots: list[Deployment],
    rollouts: Rollouts,
    age: timedelta,
) -> None:
    rules = dataclasses.replace(RULES, older_than=age, grace=age, failed_after=age)
    inventory = EndpointState(
        endpoint=endpoint(name, tags, state=state, traffic=traffic, mirror=mirror), slots=tuple(slots)
    )

    for item in decide(inventory, rollouts, rules):
        if not item.stale:
            continue
        assert tags["managed-by"] == "mlops"
        assert not {"keep", "KEEP"} & set(tags)
        assert state in ("Succeeded", "Failed")
        assert not rollouts.locked
        assert not rollouts.problem
        if item.kind == "endpoint":
            assert name.lower() != LASTING
            assert tags["mlops-kind"] == "preview"
            assert NOW - (created(inventory.endpoint, PREFIX) or NOW) >= age
        gone = slots if item.kind == "endpoint" else [one for one in slots if one.name == item.name]
        for one in gone:
            assert one.tags.get("managed-by") == "mlops"
            assert not {"keep", "KEEP"} & set(one.tags)
            assert one.state in ("Succeeded", "Failed")
        if item.kind == "slot":
            assert not rollouts.unfinished
            for shares in (traffic, mirror):
                assert all(key.lower() != item.name or not share for key, share in shares.items())
            known = rollouts.idle_since.get(item.name)
            assert known is None or NOW - known >= age


def version(number: int, **values: Any) -> ModelVersion:
    fields = {"tags": OURS, "created": NOW - timedelta(days=100 - number), **values}
    return ModelVersion(name="Chat", version=str(number), id="", **fields)


def archived(
    versions: list[ModelVersion], inventories: list[EndpointState], rollouts: list[Rollouts], keep: int
) -> list[str]:
    decisions = decide_versions(versions, inventories, rollouts, keep=keep, now=NOW)
    return [item.name.partition(":")[2] for item in decisions if item.stale]


def test_versions_that_nobody_needs_are_archived() -> None:
    versions = [version(number) for number in range(9, 0, -1)]
    versions[7] = version(2, tags={})
    versions[6] = version(3, tags={**OURS, "keep": ""})

    versions_archived = archived(
        versions, [lasting(slot("blue"))], [Rollouts(released=(("chat", "5"),), begun=(("Chat", "4"),))], 2
    )

    assert versions_archived == ["7", "6"]


@pytest.mark.parametrize("blind", [True, False])
def test_no_version_is_archived_while_it_is_not_known_what_serves(blind: bool) -> None:
    unknown = EndpointState(endpoint=endpoint("x", {}), problem="no answer" if blind else None)
    rollouts = [] if blind else [Rollouts(problem="no answer")]

    assert archived([version(2), version(1)], [unknown], rollouts, 1) == []


@given(st.sets(st.integers(1, 12)), st.sets(st.integers(1, 12)), st.sets(st.integers(1, 12)), st.integers(1, 12))
def test_a_version_in_use_is_never_archived(there: set[int], served: set[int], released: set[int], keep: int) -> None:
    slots = [dataclasses.replace(slot(f"s{number}"), model_version=str(number)) for number in served]
    rollouts = [Rollouts(released=tuple(("chat", str(number)) for number in released))]
    versions = [version(number) for number in sorted(there, reverse=True)]

    numbers = {int(name) for name in archived(versions, [lasting(*slots)], rollouts, keep)}

    assert numbers == set(sorted(there)[:-keep]) - served - released


def cluster(**values: Any) -> Cluster:
    fields = {"state": "Succeeded", "tier": "Dedicated", "min_nodes": 2, "max_nodes": 4, **values}
    return Cluster(name="gpu", size=SIZE, **fields)


@pytest.mark.parametrize(
    ("compute", "own", "minimum", "busy", "action"),
    [
        (cluster(), "GPU", 0, None, "scale_down"),
        (cluster(), "gpu", 1, None, "scale_down"),
        (cluster(), "gpu", 2, None, None),
        (cluster(min_nodes=0), "gpu", 0, None, None),
        (cluster(), "gpu", 0, "1 of its nodes is running", "keep"),
        (cluster(), "other", 0, None, "keep"),
        (cluster(tags=OURS), "other", 2, None, "scale_down"),
        (cluster(tags={"keep": ""}), "gpu", 0, None, "keep"),
        (cluster(state="Updating"), "gpu", 0, None, "keep"),
    ],
)
def test_an_idle_cluster_keeps_no_nodes(
    compute: Cluster, own: str, minimum: int, busy: str | None, action: str | None
) -> None:
    decision = decide_cluster(compute, own=own, min_nodes=minimum, busy=busy, prices_per_hour=PRICES)

    assert (decision.action if decision else None) == action


def test_savings_are_estimated_and_sizes_without_a_price_are_named() -> None:
    both = saving([(SIZE, 2), ("Standard_X", 1)], PRICES)

    assert both.per_month == pytest.approx(2 * 730 * 3.673)
    assert both.unpriced == ("Standard_X",)
    assert both.in_words("USD") == "> 5,363 USD"
    assert saving([("Standard_X", 1)], PRICES).in_words("USD") == "?"
    assert Saving().in_words("USD") == "–"
    assert decide(preview(timedelta(days=8), slot()), Rollouts(), RULES)[0].saving.per_month == pytest.approx(2681.29)
    low = decide_cluster(cluster(tier="LowPriority"), own="gpu", min_nodes=0, busy=None, prices_per_hour=PRICES)
    assert low is not None
    assert low.saving.unpriced == (SIZE,)


def record(rollout: str, kind: Kind, hours_ago: float, **facts: Any) -> Record:
    return made.record(kind, rollout=rollout, at=NOW - timedelta(hours=hours_ago), **facts)


def test_what_the_records_tell() -> None:
    records = [
        record("1", "begin", 50, action="deploy", model="chat", version="1", slot="blue", before={}),
        record("1", "end", 49, outcome="released", traffic={"blue": 100}),
        record("2", "begin", 30, action="deploy", model="chat", version="2", slot="green", before={"blue": 100}),
        record("2", "end", 29, outcome="released", traffic={"green": 100}, left="blue"),
    ]
    rollouts = summarise_records(records, ["blue", "green"])

    assert not rollouts.unfinished
    assert rollouts.idle_since == {"blue": NOW - timedelta(hours=29)}
    assert rollouts.released == (("chat", "2"), ("chat", "1"))

    begun = summarise_records([*records, record("3", "begin", 1, action="deploy", model="chat", version="3")], ["blue"])

    assert begun.unfinished
    assert begun.begun == (("chat", "3"),)
