"""Ledgers that earlier versions wrote are read as those versions read them.

``before-plans`` is of the first version, which knew no ``plan``; ``replaced-is-a-version`` of the next one, whose
``plan`` named the version alone; the others are of the versions after it, ``other-shapes`` with a line of each form
that the rest does not have. ``expected.json`` is what the code before typed records made of them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mlops.core.console import plain
from mlops.ledger import Outcome, approved, cleared, history, idle_since, unfinished
from mlops.ledger.records import parse

FOLDER = Path(__file__).with_name("old_ledgers")
EXPECTED: dict[str, Any] = json.loads((FOLDER / "expected.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", EXPECTED)
def test_an_old_ledger_says_what_it_has_always_said(name: str) -> None:
    records, bad = parse((FOLDER / name).read_bytes())
    entries = history(records)
    versions = sorted({(entry.model, entry.version) for entry in entries if entry.version})
    since = {slot: idle_since(records, slot) for slot in ("blue", "green")}

    assert {
        "read": len(records),
        "unreadable": bad,
        "history": plain(entries),
        "unfinished": [record.id for record in unfinished(records)],
        "idle_since": plain(since),
        "cleared": {slot: cleared(records, slot) for slot in ("blue", "green")},
        "approved": [f"{model}:{version}" for model, version in versions if approved(records, model, version)],
    } == EXPECTED[name]


@pytest.mark.parametrize("name", EXPECTED)
def test_a_line_is_written_as_it_was_read(name: str) -> None:
    data = (FOLDER / name).read_bytes()
    records, _ = parse(data)

    written = [json.loads(record.line) for record in records]

    assert written == [json.loads(line) for line in data.splitlines()]


def test_every_outcome_and_every_kind_is_among_them() -> None:
    lines = [json.loads(line) for name in EXPECTED for line in (FOLDER / name).read_bytes().splitlines()]
    ended = {line["facts"].get("outcome") for line in lines if line["kind"] == "end"} - {None}

    assert {line["kind"] for line in lines} == {"begin", "plan", "deployed", "verdict", "traffic", "moved", "end"}
    assert ended == {*Outcome} - {Outcome.RUNNING, Outcome.UNFINISHED}


@pytest.mark.parametrize(
    ("kind", "facts"),
    [
        ("begin", {"before": None, "machine": "my laptop", "model": 7}),
        ("plan", {"before": "blue", "steps": "all", "replaced": 5}),
        ("deployed", {"seconds": "long"}),
        ("verdict", {"what": "canary", "share": "half", "scores": [1]}),
        ("traffic", {"wanted": [], "mirror": {"blue": "all"}}),
        ("moved", {"traffic": {"blue": 99.5}}),
        ("end", {"outcome": "paused", "left": None, "mood": {"good": True}}),
        ("end", {"outcome": None}),
        ("end", {"outcome": 5}),
    ],
)
def test_a_fact_of_another_form_hides_no_record(kind: str, facts: dict[str, Any]) -> None:
    document = {"id": "1", "rollout": "r", "kind": kind, "by": "ada", "at": "2027-01-01T00:00:00Z", "facts": facts}

    records, bad = parse(json.dumps(document).encode())

    assert ([record.kind for record in records], bad) == ([kind], 0)
    assert len(history(records)) == 1


def test_an_outcome_of_a_newer_version_is_shown_by_its_name() -> None:
    document = {
        "rollout": "r",
        "kind": "end",
        "by": "ada",
        "at": "2027-01-01T00:00:00Z",
        "facts": {"outcome": "paused"},
    }

    (entry,) = history(parse(json.dumps(document).encode())[0])

    assert plain(entry)["outcome"] == "paused"
    assert entry.outcome == "paused"
    assert entry.outcome not in {*Outcome}
    assert not (entry.outcome.took_traffic)
    assert not (entry.outcome.is_settled)
    assert not (entry.outcome.is_final)
