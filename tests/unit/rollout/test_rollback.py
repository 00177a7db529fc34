"""The way back, decided by the history: no server."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from mlops.config.settings import SLOTS
from mlops.core.resources import Deployment
from mlops.ledger import Record
from mlops.rollout.rollback import previously_live, replaced_versions
from tests.support.records import record


def slot(name: str, version: str) -> Deployment:
    return Deployment(
        name=name, endpoint="chat", state="Succeeded", model="m", model_version=version, instance_type="s"
    )


class Endpoint:
    """An endpoint as rollouts leave it: what the slots hold, who is live, what the history says."""

    def __init__(self) -> None:
        self.slots: dict[str, Deployment] = {}
        self.live: str | None = None
        self.records: list[Record] = []

    def traffic(self) -> dict[str, int]:
        return {self.live: 100} if self.live else {}

    def write(self, rollout: str, kind: Any, **facts: Any) -> None:
        self.records.append(record(kind, rollout=rollout, **facts))

    def deploy(self, version: str, outcome: str = "released") -> None:
        rollout, before = f"r{len(self.records)}", self.traffic()
        goal = SLOTS[1 - SLOTS.index(self.live)] if self.live else SLOTS[0]
        old = self.slots.get(self.live or "")
        replaced = {"model": "m", "version": old.model_version} if old else None
        self.write(rollout, "begin", action="deploy", model="m", version=version)
        self.write(rollout, "plan", slot=goal, before=before, model="m", version=version, replaced=replaced)
        self.slots[goal] = slot(goal, version)
        if outcome == "released":
            self.live = goal
        self.write(rollout, "end", outcome=outcome, traffic=self.traffic())

    def standing(self, version: str) -> list[str]:
        return [name for name, held in self.slots.items() if held.model_version == version and name != self.live]


@given(st.lists(st.tuples(st.integers(1, 5).map(str), st.sampled_from(["released", "refused", "failed"])), max_size=8))
def test_a_rollback_after_a_deploy_is_the_identity_on_traffic(story: list[tuple[str, str]]) -> None:
    found = Endpoint()
    found.deploy("0")
    for version, outcome in story:
        found.deploy(version, outcome)
    before = found.traffic()
    found.deploy("new")

    (goal,) = replaced_versions(found.records, found.slots[found.live or ""])
    (where,) = found.standing(goal[1])

    assert {where: 100} == before


@given(st.lists(st.tuples(st.integers(0, 5).map(str), st.sampled_from(["released", "refused"])), max_size=8))
def test_what_was_never_live_is_no_version_before(story: list[tuple[str, str]]) -> None:
    found = Endpoint()
    for version, outcome in story:
        found.deploy(version, outcome)
    released = {version for version, outcome in story if outcome == "released"}

    assert {version for _, version in previously_live(found.records)} == released


def test_the_newest_comes_first_and_each_once() -> None:
    found = Endpoint()
    for version in ("1", "2", "1", "3"):
        found.deploy(version)

    assert [version for _, version in previously_live(found.records)] == ["3", "1", "2"]
    assert replaced_versions(found.records, slot("blue", "unknown")) == []
    assert replaced_versions(found.records, None) == []
