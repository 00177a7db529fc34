"""What is read from an endpoint's records: pure functions, no server."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlops.cli import history as shown
from mlops.core import process
from mlops.core.console import Console
from mlops.ledger import Kind, Record, approved, cleared, history, idle_since, unfinished
from mlops.ledger.owner import lease_id
from mlops.ledger.records import parse
from tests.support.records import record

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


class Story:
    """Records of several rollouts, a minute apart."""

    def __init__(self) -> None:
        self.records: list[Record] = []

    def add(self, rollout: str, kind: Kind, **facts: Any) -> Record:
        at = NOON + timedelta(minutes=len(self.records))
        self.records.append(record(kind, at=at, rollout=rollout, by="ann", **facts))
        return self.records[-1]

    def released(self, rollout: str, version: str, slot: str, before: dict[str, int]) -> None:
        self.add(rollout, "begin", action="deploy", model="m", version=version)
        self.add(rollout, "plan", slot=slot, before=before)
        self.add(rollout, "deployed", slot=slot, model="m", version=version)
        self.add(rollout, "verdict", what="gate", slot=slot, model="m", version=version, verdict="pass")
        self.add(rollout, "traffic", wanted={slot: 100}, what="step")
        self.add(rollout, "moved", traffic={slot: 100})
        left = next(iter(before), None)
        self.add(rollout, "end", outcome="released", traffic={slot: 100}, left=left)


# -- lines ---------------------------------------------------------------------------------------------------------

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)
FACTS = TEXTS | st.sampled_from(
    ["model", "version", "slot", "before", "traffic", "wanted", "replaced", "outcome", "share"]
)
RECORDS = st.fixed_dictionaries(
    {
        "at": st.datetimes(timezones=st.just(UTC)),
        "rollout": st.sampled_from("abcd"),
        "kind": st.sampled_from(get_args(Kind)),
        "by": TEXTS,
        "facts": st.dictionaries(FACTS, VALUES, max_size=4),
    }
).map(Record.model_validate)


@given(st.lists(st.tuples(RECORDS, st.integers(1, 3)), max_size=6))
def test_what_is_written_is_read_once(given: list[tuple[Record, int]]) -> None:
    data = b"".join(record.line * times for record, times in given)
    assert parse(data) == ([record for record, _ in given], 0)


@given(RECORDS)
def test_a_record_is_one_line(record: Record) -> None:
    assert record.line.endswith(b"\n")
    assert record.line.count(b"\n") == 1


def test_a_late_second_line_changes_no_order() -> None:
    story = Story()
    first, second = story.add("a", "begin"), story.add("a", "end")
    assert parse(first.line + second.line + first.line)[0] == [first, second]


def test_lines_that_cannot_be_read_are_counted() -> None:
    story = Story()
    record = story.add("a", "begin")
    document = json.loads(record.line)
    newer = json.dumps({**document, "id": "1", "schema_version": 2, "mood": "good"}).encode()
    unknown = json.dumps({**document, "id": "2", "kind": "danced"}).encode()
    naive = json.dumps({**document, "id": "3", "at": "2026-03-01T12:00:00"}).encode()
    lines = [b"{", b"", b"\xff\xfe", b"null", b"[" * 100_000, record.line[:-1], newer, unknown, naive]
    found, bad = parse(b"\n".join(lines))
    assert [entry.id for entry in found] == [record.id, "1"]
    assert bad == 6


def test_facts_that_json_does_not_know() -> None:
    written = record("verdict", by="x\udc80", scores={"p95": float("nan")}, t=NOON)
    found = parse(written.line)[0][0]
    assert (found.by, found.written_facts) == ("x?", {"scores": {"p95": None}, "t": "2026-03-01T12:00:00Z"})


# -- what was begun ------------------------------------------------------------------------------------------------


def test_what_has_its_end_is_not_unfinished() -> None:
    story = Story()
    assert unfinished([]) == []
    story.released("a", "1", "blue", {})
    assert unfinished(story.records) == []
    begun = [story.add("b", "begin", action="deploy"), story.add("b", "moved", traffic={"blue": 90, "green": 10})]
    assert unfinished(story.records) == begun
    begun.append(story.add("c", "begin", action="deploy"))
    assert unfinished(story.records) == begun  # who came to help died too: the first one knows the traffic before
    story.add("c", "end", outcome="recovered")
    assert unfinished(story.records) == []


def test_a_late_line_of_an_ended_rollout_begins_nothing() -> None:
    story = Story()
    story.released("a", "1", "blue", {})
    story.add("a", "traffic", wanted={})
    assert unfinished(story.records) == []


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.sampled_from(get_args(Kind))), max_size=20))
def test_unfinished_never_holds_an_ended_rollout(kinds: list[tuple[str, Kind]]) -> None:
    story = Story()
    for rollout, kind in kinds:
        story.add(rollout, kind)
    found = unfinished(story.records)
    ended = {record.rollout for record in story.records if record.kind == "end"}
    assert not ended & {record.rollout for record in found}
    order = list(dict.fromkeys(record.rollout for record in story.records))
    assert bool(found) == (bool(order) and order[-1] not in ended)


# -- history -------------------------------------------------------------------------------------------------------


def test_the_history_of_a_release_and_of_one_that_was_taken_back() -> None:
    story = Story()
    story.released("a", "1", "blue", {})
    story.add("b", "begin", action="deploy", model="m", version="2", reason="why", run_url="https://run", commit="c0")
    story.add("b", "plan", slot="green", before={"blue": 100})
    story.add("b", "verdict", what="gate", slot="green", model="m", version="2", verdict="pass")
    story.add("b", "moved", traffic={"blue": 90, "green": 10})
    story.add("b", "verdict", what="soak", slot="green", model="m", version="2", verdict="fail", share=10)
    story.add("b", "moved", traffic={"blue": 100})
    story.add("b", "end", outcome="restored", traffic={"blue": 100}, left="green", error="slow")
    second, first = history(story.records)
    assert (first.version, first.slot, first.outcome, first.before, first.after) == (
        "1",
        "blue",
        "released",
        {},
        {"blue": 100},
    )
    assert second.verdicts == ("gate pass", "soak 10 % fail")
    assert (second.before, second.after, second.outcome) == ({"blue": 100}, {"blue": 100}, "restored")
    assert (second.reason, second.error, second.run_url, second.commit) == ("why", "slow", "https://run", "c0")
    assert second.ended is not None
    assert second.ended > second.started > first.started


def test_what_has_no_end_says_why() -> None:
    story = Story()
    story.add("dead", "begin", action="deploy")
    story.add("stopped", "begin", action="deploy")
    story.add("newest", "begin", action="rollback", broke="stopped")
    assert [entry.outcome for entry in history(story.records)] == ["unfinished", "overruled", "interrupted"]
    assert history(story.records, locked=True)[0].outcome == "running"
    assert [entry.ended for entry in history(story.records)] == [None] * 3


def test_a_history_fits_eighty_columns(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    story = Story()
    story.released("a", "1763628000", "blue", {"green": 100})
    story.add("b", "begin", action="rollback", model="m", version="1763628001", before={"blue": 90, "green": 10})
    story.records.append(record("begin", rollout="c", by="a-very-long-name-of-a-bot[bot]"))
    for number, verdict in enumerate(["pass", "pass", "fail"]):
        story.add("b", "verdict", what="soak", slot="green", verdict=verdict, share=number)
    story.add("b", "end", outcome="rolled_back", traffic={"green": 100})
    entries = history(story.records)
    Console().result(None, shown.table(entries, title="chat"))
    text = capsys.readouterr().out
    assert max(len(line) for line in text.splitlines()) <= 80
    for part in ("1763628000", "rolled back", "soak ✓✓✕", "gate ✓", "unfinished"):
        assert part in text
    markdown = shown.markdown(entries, title="chat")
    assert "blue 90 green 10 → green 100" in markdown
    assert len(markdown.splitlines()) == 4 + len(entries)


def test_a_time_is_as_short_as_it_is_clear() -> None:
    now = datetime(2026, 3, 1, 12, 30, tzinfo=UTC).astimezone()
    assert shown.when(now - timedelta(minutes=1), now).count(":") == 2
    assert shown.when(now - timedelta(days=2), now).startswith("02-27")
    assert shown.when(now - timedelta(days=90), now).startswith("2025-12")


# -- what may have traffic, and what has none ----------------------------------------------------------------------


def test_a_version_is_approved_by_the_gate_or_with_a_reason() -> None:
    story = Story()

    def verdict(version: str, what: str, verdict: str) -> None:
        story.add("a", "verdict", what=what, slot="blue", model="m", version=version, verdict=verdict)

    verdict("1", "gate", "pass")
    verdict("2", "gate", "fail")
    verdict("3", "skipped", "skipped")
    verdict("4", "soak", "pass")
    verdict("5", "gate", "inconclusive")
    verdict("6", "gate", "fail")
    verdict("6", "gate", "pass")
    verdict("7", "gate", "pass")
    verdict("7", "soak", "fail")
    verdict("8", "gate", "pass")
    verdict("8", "soak", "fail")
    verdict("8", "gate", "pass")
    verdict("9", "gate", "pass")
    verdict("9", "gate", "inconclusive")
    assert [version for version in "123456789" if approved(story.records, "m", version)] == [*"1368"]
    assert not approved(story.records, "other", "1")


def test_what_was_put_into_a_slot_anew_is_not_cleared_by_what_was_there() -> None:
    story = Story()
    story.released("a", "1", "blue", {})
    assert cleared(story.records, "Blue")
    assert not cleared(story.records, "green")
    story.add("b", "plan", action="rollback", slot="blue", before={})
    assert cleared(story.records, "blue")
    story.add("c", "plan", action="deploy", slot="blue", before={})
    assert not cleared(story.records, "blue")
    story.add("c", "deployed", slot="blue", model="m", version="1")
    assert not cleared(story.records, "blue")
    story.add("c", "verdict", what="gate", slot="blue", model="m", version="1", verdict="pass")
    assert cleared(story.records, "blue")
    story.add("c", "verdict", what="soak", slot="blue", model="m", version="1", verdict="fail")
    assert not cleared(story.records, "blue")


def test_a_slot_is_idle_since_it_lost_its_traffic() -> None:
    story = Story()
    story.released("a", "1", "blue", {})
    assert (idle_since(story.records, "blue"), idle_since(story.records, "green")) == (None, None)
    story.released("b", "2", "green", {"blue": 100})
    lost = story.records[-2]
    assert lost.kind == "moved"
    assert idle_since(story.records, "BLUE") == lost.at
    assert idle_since(story.records, "green") is None
    story.released("c", "2", "green", {"green": 100})
    assert idle_since(story.records, "blue") == lost.at


def test_what_was_put_into_a_slot_and_got_no_traffic_is_idle_since_then() -> None:
    story = Story()
    story.released("a", "1", "blue", {})
    story.released("b", "2", "green", {"blue": 100})
    story.add("c", "begin", action="deploy")
    put = story.add("c", "deployed", slot="blue", model="m", version="3")
    story.add("c", "verdict", what="gate", slot="blue", model="m", version="3", verdict="fail")
    story.add("c", "end", outcome="refused", traffic={"green": 100})
    assert idle_since(story.records, "blue") == put.at


def test_an_end_that_names_what_was_left_is_enough() -> None:
    story = Story()
    story.released("a", "1", "blue", {})
    end = story.add("b", "end", outcome="recovered", left="blue")
    assert idle_since(story.records, "blue") == end.at


@given(st.lists(st.dictionaries(st.sampled_from(["blue", "green"]), st.integers(0, 100)), min_size=1, max_size=8))
def test_a_slot_with_traffic_is_never_idle(maps: list[dict[str, int]]) -> None:
    story = Story()
    for shares in maps:
        story.add("a", "moved", traffic=shares)
    for slot in ("blue", "green"):
        since = idle_since(story.records, slot)
        had = [bool(shares.get(slot)) for shares in maps]
        if had[-1]:
            assert since is None
        elif any(had):
            assert since == story.records[len(had) - had[::-1].index(True)].at


# -- processes -----------------------------------------------------------------------------------------------------


def test_a_process_lives_until_it_is_dead() -> None:
    code = "import json, sys; from mlops.core import process; print(json.dumps(process.this_process()), flush=True); "
    command = [sys.executable, "-c", f"{code}sys.stdin.read()"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        described = json.loads(child.stdout.readline())
        assert process.is_alive(described) is True
        assert process.is_alive({**described, "boot": "another machine"}) is None
        assert process.is_alive({**described, "pids": "another container"}) is None
        if described["started"]:
            assert process.is_alive({**described, "started": described["started"] - 1}) is False
        child.kill()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        if described["started"]:
            assert process.is_alive(described) is False  # not buried yet
    assert process.is_alive(described) is False


def test_a_lease_has_the_id_of_its_rollout() -> None:
    rollout = uuid.uuid4()
    assert lease_id(rollout.hex) == str(rollout)
    assert uuid.UUID(lease_id("by hand"))


@pytest.mark.parametrize("described", [None, {}, "x", {"pid": "1"}, {"pid": 0}, {"pid": -1, "boot": "x"}])
def test_nothing_is_known_of_a_process_that_is_not_described(described: object) -> None:
    assert process.is_alive(described) is None


def test_who_is_at_work(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "@" in process.actor()
    monkeypatch.setenv("GITHUB_ACTOR", "octocat")
    assert process.actor() == "octocat"
