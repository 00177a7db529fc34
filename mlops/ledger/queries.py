"""What can be read from the records. All decisions here are pure.

Records count in the order in which they stand, not by their clocks: they come from many machines.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from mlops.ledger.outcomes import Outcome
from mlops.ledger.records import Begin, Deployed, End, Facts, Planned, Record, TrafficMoved, Verdict

VERSIONED = (Begin, Planned, Deployed, Verdict, End)


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
    outcome: Outcome
    reason: str = ""
    error: str = ""
    run_url: str = ""
    commit: str = ""


def by_rollout(records: Iterable[Record]) -> dict[str, list[Record]]:
    """The records of each rollout, in the order in which they began."""
    grouped: dict[str, list[Record]] = {}
    for record in records:
        grouped.setdefault(record.rollout, []).append(record)
    return grouped


def unfinished(records: Sequence[Record]) -> list[Record]:
    """What was begun and not ended since the last rollout that was; empty where the last one has its end.

    More than one rollout may stand in it, where the one that came to help died too. The first record is then the
    ``begin`` that knows the traffic before all of them.
    """
    open_: list[Record] = []
    for own in by_rollout(records).values():
        open_ = [] if any(record.kind == "end" for record in own) else open_ + own
    return open_


def history(records: Sequence[Record], *, locked: bool = False) -> list[Entry]:
    """One entry per rollout, newest first.

    A rollout without an end was ``overruled`` if another one broke its lease, ``interrupted`` if another one came
    after it; the newest one is ``running`` while somebody holds the lease, else ``unfinished``.
    """
    grouped = by_rollout(records)
    last = next(reversed(grouped), None)
    broken = {record.facts.superseded for record in records if isinstance(record.facts, Begin)}

    def cut_off(rollout: str) -> Outcome:
        if rollout in broken:
            return Outcome.OVERRULED
        if rollout != last:
            return Outcome.INTERRUPTED
        return Outcome.RUNNING if locked else Outcome.UNFINISHED

    return [_entry(rollout, own, cut_off(rollout)) for rollout, own in reversed(grouped.items())]


def _entry(rollout: str, own: Sequence[Record], cut_off: Outcome) -> Entry:
    first = own[0]
    opening = first.facts if isinstance(first.facts, Begin) else Begin()
    facts = [record.facts for record in own]
    action = first.facts.action if isinstance(first.facts, (Begin, Planned)) else None
    reason = first.facts.reason if isinstance(first.facts, (Begin, Verdict)) else None
    ends = [record for record in own if record.kind == "end"]
    end = next((each for each in reversed(facts) if isinstance(each, End)), None)
    planned = next((before for each in facts if (before := _before(each)) is not None), None)
    moved = [each.traffic for each in facts if isinstance(each, (TrafficMoved, End)) and each.traffic is not None]
    after = moved[-1] if moved else planned or {}
    versioned = [each for each in reversed(facts) if isinstance(each, VERSIONED)]  # slot and version may be known late
    return Entry(
        rollout=rollout,
        started=first.at,
        ended=ends[-1].at if ends else None,
        action=action or "",
        by=first.by,
        model=next((each.model for each in versioned if each.model), ""),
        version=next((each.version for each in versioned if each.version), ""),
        slot=next((each.slot for each in versioned if each.slot), ""),
        verdicts=tuple(_in_words(each) for each in facts if isinstance(each, Verdict)),
        before=after if planned is None else planned,  # one that came to no plan has moved nothing
        after=after,
        outcome=end.outcome if end else cut_off,
        reason=reason or "",
        error=end.error or "" if end else "",
        run_url=opening.run_url or "",
        commit=opening.commit or "",
    )


def _before(facts: Facts) -> dict[str, int] | None:
    return facts.before if isinstance(facts, (Begin, Planned, End)) else None


def _in_words(verdict: Verdict) -> str:
    what, said = verdict.what or "", verdict.verdict or ""
    if what in ("", said):
        return said
    return f"{what} {verdict.share} % {said}" if what == "soak" and verdict.share else f"{what} {said}"


def approved(records: Iterable[Record], model: str, version: str) -> bool:
    """Whether that version may have traffic here: it passed the gate, or was let through with a reason.

    One that a gate or a soak has not passed since then may not, before it has passed again.
    """
    passed = False
    for record in records:
        facts = record.facts
        if not isinstance(facts, Verdict) or (facts.model, facts.version) != (model, str(version)):
            continue
        if (facts.what, facts.verdict) in (("gate", "pass"), ("skipped", "skipped")):
            passed = True
        elif facts.what in ("gate", "soak") and facts.verdict != "pass":
            passed = False
    return passed


def cleared(records: Iterable[Record], slot: str) -> bool:
    """Whether what stands in a slot may have traffic: since it was put there, it has passed, or was let through."""
    passed = False
    for record in records:
        facts = record.facts
        if not isinstance(facts, VERSIONED) or (facts.slot or "").lower() != slot.lower():
            continue
        if isinstance(facts, Deployed) or (isinstance(facts, Planned) and facts.action == "deploy"):
            passed = False
        elif isinstance(facts, Verdict):
            passed = facts.verdict in ("pass", "skipped")
    return passed


def idle_since(records: Iterable[Record], slot: str) -> datetime | None:
    """Since when what stands in a slot has no traffic: since it lost it, or since it was put there.

    None where it has traffic, or where the ledger knows nothing of it.
    """
    slot = slot.lower()
    since: datetime | None = None
    has_traffic = False
    for record in records:
        facts = record.facts
        if isinstance(facts, Deployed):
            if (facts.slot or "").lower() == slot and not has_traffic:
                since = record.at
            continue
        vacated = isinstance(facts, End) and (facts.vacated or "").lower() == slot
        traffic = _traffic(facts)
        if traffic is None and not vacated:
            continue
        had, has_traffic = has_traffic, not vacated and _share(traffic or {}, slot) > 0
        if has_traffic:
            since = None
        elif had or (vacated and since is None):
            since = record.at
    return since


def _traffic(facts: Facts) -> dict[str, int] | None:
    """The traffic map that a record knows."""
    if isinstance(facts, (Begin, Planned)):
        return facts.before
    return facts.traffic if isinstance(facts, (TrafficMoved, End)) else None


def _share(traffic: Mapping[str, int], slot: str) -> int:
    return {name.lower(): share for name, share in traffic.items()}.get(slot, 0)
