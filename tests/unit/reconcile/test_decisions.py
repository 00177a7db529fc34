"""What reconcile decides: no server."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlops.core.resources import MANAGED_BY, MANAGED_TAG, MODEL_TAG, RUNNING, Job, ModelVersion
from mlops.ledger import Record
from mlops.reconcile import REPORTED_TAG, next_version, sort_jobs
from mlops.reconcile.decisions import TRIES, ours
from tests.support.records import record

NOW = datetime(2026, 3, 1, tzinfo=UTC)
MINE = {MANAGED_TAG: MANAGED_BY}
STATES = [*sorted(RUNNING), "Completed", "Failed", "Canceled", "Paused", "NotResponding"]


def version(number: str, *, job: str = "", **tags: str) -> ModelVersion:
    fields = {**MINE, "job": job or f"job-{number}", **tags}
    return ModelVersion(name="chat", version=number, id=f"chat:{number}", tags=fields)


def rollout(
    number: str, outcome: str | None, *verdicts: tuple[str, str], action: str = "deploy", name: str = ""
) -> list[Record]:
    """One rollout of a version; without an outcome it has not ended."""
    name = name or f"{number}-{outcome}-{len(verdicts)}"

    facts: dict[str, Any] = {"model": "chat", "version": number}
    records = [record("begin", rollout=name, action=action, **facts)]
    records += [record("verdict", rollout=name, what=what, verdict=verdict, **facts) for what, verdict in verdicts]
    return records + ([record("end", rollout=name, outcome=outcome)] if outcome else [])


# -- trainings ---------------------------------------------------------------------------------------------------------


@given(
    st.lists(st.tuples(st.sampled_from(STATES), st.booleans(), st.booleans()), max_size=8),
)
def test_every_job_is_in_one_place_or_done_with(states: list[tuple[str, bool, bool]]) -> None:
    jobs = [
        Job(name=f"job-{number}", status=status, tags={**MINE, **({REPORTED_TAG: "then"} if reported else {})})
        for number, (status, reported, _) in enumerate(states)
    ]
    versions = [version(str(number), job=job.name) for number, job in enumerate(jobs) if states[number][2]]

    work = sort_jobs(jobs, versions)

    for job, (status, reported, registered) in zip(jobs, states, strict=True):
        queues = [queue for queue in ("running", "register", "report") if job in getattr(work, queue)]
        if status == "Completed":
            assert queues == ([] if registered else ["register"])
        elif status in ("Failed", "Canceled"):
            assert queues == ([] if reported else ["report"])
        else:
            assert queues == ["running"]


def test_a_version_that_was_not_tagged_counts_by_its_job() -> None:
    job = Job(name="job-1", status="Completed", tags=MINE)

    assert sort_jobs([job], [ModelVersion(name="chat", version="1", id="", job="job-1")]).register == ()


@pytest.mark.parametrize(
    ("tags", "experiment", "mine"),
    [
        ({**MINE, MODEL_TAG: "chat"}, "of another base model", True),
        ({**MINE, MODEL_TAG: "other"}, "chat_completion", False),
        (MINE, "chat_completion", True),
        (MINE, "else", False),
        ({MODEL_TAG: "chat"}, "chat_completion", False),
    ],
)
def test_jobs_of_this_repository(tags: dict[str, str], experiment: str, mine: bool) -> None:
    job = Job(name="j", status="Running", experiment=experiment, tags=tags)

    assert ours(job, model="chat", experiment="chat_completion") is mine


# -- what is deployed next ---------------------------------------------------------------------------------------------


def test_the_newest_version_is_offered_where_nothing_is_live() -> None:
    assert next_version([version("9"), version("10")], [], live=(), locked=False).version == "10"
    assert next_version([], [], live=(), locked=False).version == ""


def test_only_versions_of_trainings_are_offered() -> None:
    by_hand = ModelVersion(name="chat", version="12", id="", tags={})
    named = version("latest-and-greatest")

    assert next_version([by_hand, named, version("3")], [], live=(), locked=False).version == "3"


@pytest.mark.parametrize(
    ("records", "live"),
    [
        ([], {"5"}),
        ([], {"7"}),  # somebody deployed a newer one by hand
        (rollout("5", "refused", ("gate", "fail")), {"4"}),
        (rollout("5", "undecided", ("gate", "inconclusive")), {"4"}),
        (rollout("5", "restored", ("gate", "pass"), ("soak", "fail")), {"4"}),
        (rollout("5", "released", ("gate", "pass")) + rollout("4", "rolled_back", action="rollback"), {"4"}),
        (rollout("5", "interrupted"), {"4"}),  # a person broke it off
        (rollout("5", "overruled"), {"4"}),
        (rollout("6", "refused", ("gate", "fail")), {"4"}),  # what is older than what was tried
        (rollout("5", None), {"4"}),  # under way: see `held` below
    ],
)
def test_what_is_live_or_was_tried_is_not_offered(records: list[Record], live: set[str]) -> None:
    locked = bool(records) and records[-1].kind == "begin"

    assert next_version([version("4"), version("5")], records, live=live, locked=locked).version == ""


@pytest.mark.parametrize("outcome", ["failed", "restored", "abandoned", None])
def test_a_rollout_that_merely_broke_is_tried_again_but_not_for_ever(outcome: str | None) -> None:
    for tries in range(TRIES + 2):
        records = [record for number in range(tries) for record in rollout("5", outcome, name=str(number))]
        offer = next_version([version("5")], records, live={"4"}, locked=False)
        assert offer.version == ("5" if tries < TRIES else ""), tries


def test_while_a_rollout_is_under_way_nothing_is_offered() -> None:
    assert next_version([version("5")], rollout("4", None), live=(), locked=True).version == ""


outcomes = st.sampled_from(
    ["released", "refused", "undecided", "restored", "failed", "abandoned", "interrupted", "rolled_back", "recovered"]
)
verdict_records = st.sampled_from([("gate", "pass"), ("gate", "fail"), ("gate", "inconclusive"), ("soak", "fail")])
rollouts = st.lists(st.tuples(st.integers(1, 6), outcomes, st.lists(verdict_records, max_size=2)), max_size=8)


@given(st.sets(st.integers(1, 6)), st.sets(st.integers(1, 6), max_size=2), rollouts, st.booleans())
def test_what_is_offered_is_new_and_was_refused_by_nobody(
    numbers: set[int], live: set[int], past: list[tuple[int, str, list[tuple[str, str]]]], locked: bool
) -> None:
    records = [
        record
        for index, (number, outcome, verdicts) in enumerate(past)
        for record in rollout(str(number), outcome, *verdicts, name=str(index))
    ]

    offer = next_version(
        [version(str(number)) for number in numbers], records, live={str(number) for number in live}, locked=locked
    )

    assert offer.why
    if offer.version:
        number = int(offer.version)
        assert number == max(numbers)
        assert number > max(live, default=0)
        refused = {number for number, _, verdicts in past if any(verdict != "pass" for _, verdict in verdicts)}
        brought = {number for number, outcome, _ in past if outcome in ("released", "rolled_back", "interrupted")}
        assert number > max(refused | brought, default=0)
        assert sum(number == tried for tried, _, _ in past) < TRIES


def test_the_age_of_a_running_job_is_said() -> None:
    from mlops.cli.reconcile import table_rows
    from mlops.reconcile import Next, Outcome, Work

    begun = datetime.now(UTC) - timedelta(hours=3, minutes=12)
    work = Work(running=(Job(name="ft-1", status="Running", created=begun),))

    rows = table_rows(Outcome(work=work, deploy=Next("", "9 is live")), dry_run=False)

    assert rows == [("running", "ft-1", "Running for 3.2 h"), ("to deploy", "nothing", "9 is live")]
