"""The ledger's records, and what can be read from them. All decisions here are pure.

Records count in the order in which they stand, not by their clocks: they come from many machines.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from mlops.core.console import plain

Kind = Literal["begin", "plan", "deployed", "verdict", "traffic", "moved", "end"]


class Record(BaseModel):
    """One decision or deed of one rollout: a line of JSON.

    ``begin`` has action, model, version, reason, run_url, commit, machine, broke; ``plan`` slot, live, before (the
    traffic to go back to), steps; ``deployed`` slot, model, version, seconds; ``verdict`` what (gate, soak, skipped),
    slot, model, version, verdict, reason, scores, share; ``traffic`` wanted, mirror, what: an intent, written before
    the call; ``moved`` traffic: seen after it; ``end`` outcome, traffic, left (the slot that lost its traffic), error.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    schema_version: int = 1
    id: str = Field(default_factory=lambda: uuid.uuid4().hex)
    at: AwareDatetime = Field(default_factory=lambda: datetime.now(UTC))
    rollout: str
    kind: Kind
    by: str
    facts: dict[str, Any] = Field(default_factory=dict)

    @property
    def line(self) -> bytes:
        """As it stands in the blob."""
        return json.dumps(plain(self), ensure_ascii=False).encode(errors="replace") + b"\n"

    def shares(self, name: str) -> dict[str, int]:
        """A traffic map among the facts; empty where there is none."""
        found = self.facts.get(name)
        if not isinstance(found, Mapping):
            return {}
        return {str(slot): int(share) for slot, share in found.items() if isinstance(share, (int, float))}

    def text(self, name: str) -> str:
        """A fact as text; empty where there is none."""
        found = self.facts.get(name)
        return "" if found is None else str(found)


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One rollout as the history shows it. Without an ``ended`` it was cut off, or is under way."""

    rollout: str
    started: datetime
    ended: datetime | None
    action: str
    by: str
    model: str
    version: str
    slot: str
    verdicts: tuple[str, ...]
    before: Mapping[str, int] = field(default_factory=dict)
    after: Mapping[str, int] = field(default_factory=dict)
    outcome: str
    reason: str = ""
    error: str = ""
    run_url: str = ""
    commit: str = ""


def parse(data: bytes) -> tuple[list[Record], int]:
    """The records of a blob, each once, and how many lines cannot be read."""
    found: dict[str, Record] = {}
    bad = 0
    for line in data.split(b"\n"):
        if not line.strip():
            continue
        try:
            record = Record.model_validate_json(line)
        except ValidationError:
            bad += 1
            continue
        found.setdefault(record.id, record)  # an append whose answer was lost is sent twice
    return list(found.values()), bad


def rollouts(records: Iterable[Record]) -> dict[str, list[Record]]:
    """The records of each rollout, in the order in which they began."""
    found: dict[str, list[Record]] = {}
    for record in records:
        found.setdefault(record.rollout, []).append(record)
    return found


def unfinished(records: Sequence[Record]) -> list[Record]:
    """What was begun and not ended since the last rollout that was; empty where the last one has its end.

    More than one rollout may stand in it, where the one that came to help died too. The first record is then the
    ``begin`` that knows the traffic before all of them.
    """
    open_: list[Record] = []
    for own in rollouts(records).values():
        open_ = [] if any(record.kind == "end" for record in own) else open_ + own
    return open_


def history(records: Sequence[Record], *, held: bool = False) -> list[Entry]:
    """One entry per rollout, newest first.

    A rollout without an end was ``overruled`` if another one broke its lease, ``interrupted`` if another one came
    after it; the newest one is ``running`` while somebody holds the lease, else ``unfinished``.
    """
    grouped = rollouts(records)
    last = next(reversed(grouped), None)
    broken = {record.facts.get("broke") for record in records if record.kind == "begin"}

    def cut_off(rollout: str) -> str:
        if rollout in broken:
            return "overruled"
        return "interrupted" if rollout != last else "running" if held else "unfinished"

    return [_entry(rollout, own, cut_off(rollout)) for rollout, own in reversed(grouped.items())]


def _entry(rollout: str, own: Sequence[Record], cut_off: str) -> Entry:
    begin = own[0]
    end = next((record for record in reversed(own) if record.kind == "end"), None)
    planned = next((record.shares("before") for record in own if "before" in record.facts), None)
    after = planned or {}
    for record in own:
        if record.kind in ("moved", "end") and "traffic" in record.facts:
            after = record.shares("traffic")

    def last(name: str) -> str:
        """The newest value: the slot and the version may be known only later."""
        return next((record.text(name) for record in reversed(own) if record.text(name)), "")

    return Entry(
        rollout=rollout,
        started=begin.at,
        ended=end.at if end else None,
        action=begin.text("action"),
        by=begin.by,
        model=last("model"),
        version=last("version"),
        slot=last("slot"),
        verdicts=tuple(_verdict(record) for record in own if record.kind == "verdict"),
        before=after if planned is None else planned,  # one that came to no plan has moved nothing
        after=after,
        outcome=end.text("outcome") if end else cut_off,
        reason=begin.text("reason"),
        error=end.text("error") if end else "",
        run_url=begin.text("run_url"),
        commit=begin.text("commit"),
    )


def _verdict(record: Record) -> str:
    what, verdict, share = record.text("what"), record.text("verdict"), record.text("share")
    if what in ("", verdict):
        return verdict
    return f"{what} {share} % {verdict}" if what == "soak" and share else f"{what} {verdict}"


def approved(records: Iterable[Record], model: str, version: str) -> bool:
    """Whether that version may have traffic here: it passed the gate, or was let through with a reason.

    One that a gate or a soak has not passed since then may not, before it has passed again.
    """
    found = False
    for record in records:
        if (record.kind, record.text("model"), record.text("version")) != ("verdict", model, str(version)):
            continue
        what, verdict = record.text("what"), record.text("verdict")
        if (what, verdict) in (("gate", "pass"), ("skipped", "skipped")):
            found = True
        elif what in ("gate", "soak") and verdict != "pass":
            found = False
    return found


def cleared(records: Iterable[Record], slot: str) -> bool:
    """Whether what stands in a slot may have traffic: since it was put there, it has passed, or was let through."""
    found = False
    for record in records:
        if record.text("slot").lower() != slot.lower():
            continue
        if record.kind == "deployed" or (record.kind == "plan" and record.text("action") == "deploy"):
            found = False
        elif record.kind == "verdict":
            found = record.text("verdict") in ("pass", "skipped")
    return found


def idle_since(records: Iterable[Record], slot: str) -> datetime | None:
    """Since when what stands in a slot has no traffic: since it lost it, or since it was put there.

    None where it has traffic, or where the ledger knows nothing of it.
    """
    slot = slot.lower()
    since: datetime | None = None
    busy: bool | None = None
    for record in records:
        if record.kind == "deployed" and record.text("slot").lower() == slot and not busy:
            since = record.at
        elif record.kind in ("begin", "plan", "moved", "end"):
            name = "before" if record.kind in ("begin", "plan") else "traffic"
            left = record.kind == "end" and record.text("left").lower() == slot
            if name not in record.facts and not left:
                continue
            shares = {key.lower(): share for key, share in record.shares(name).items()}
            has = shares.get(slot, 0) > 0 and not left
            if has:
                since = None
            elif busy or (left and since is None):
                since = record.at
            busy = has
    return since
