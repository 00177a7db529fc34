"""What becomes of a rollout whose runner died: undone, or finished, by its record in the endpoint's history."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mlops.azure import endpoints
from mlops.azure.endpoints import shares
from mlops.ledger import End, Outcome, Planned, TrafficIntent, TrafficMoved, Verdict, unfinished

if TYPE_CHECKING:
    from mlops.azure.session import Session
    from mlops.core.resources import Deployment, Endpoint
    from mlops.ledger import Hold, Record


@dataclass(frozen=True, kw_only=True)
class Repair:
    """What is to be done.

    Attributes:
        traffic: the map to set; None leaves it as it is.
        why: for people.
        outcome: how the rollout ends in the history.
    """

    traffic: Mapping[str, int] | None
    why: str
    outcome: Outcome


def repair(dead: Sequence[Record], endpoint: Endpoint | None, standing: Sequence[Deployment]) -> Repair:
    """Decide by the records of what has not ended and by what Azure holds, both looked at under the lease.

    A rollout that has passed its last soak is finished, and so is a rollback, since a person wished it. Any other one
    is undone. Traffic that the records do not explain is somebody else's work and stays.

    Args:
        dead: the records; where one who came to help died too, his are among them.
        endpoint: as Azure holds it; None where there is none.
        standing: its deployments.
    """
    begun = [(index, record.facts) for index, record in enumerate(dead) if isinstance(record.facts, Planned)]
    if not begun or endpoint is None:
        return Repair(traffic=None, why="it had changed nothing", outcome=Outcome.ABANDONED)
    index, plan = begun[-1]
    own = dead[index:]
    before, slot = shares(plan.before or {}), (plan.slot or "").lower()
    wished = [shares(record.facts.wanted or {}) for record in own if isinstance(record.facts, TrafficIntent)]
    now, mirrored = shares(endpoint.traffic), bool(shares(endpoint.mirror))
    sound = {item.name.lower() for item in standing if item.state.lower() == "succeeded"}
    there = {item.name.lower() for item in standing}
    if not wished or now not in (before, *wished):
        why = "the traffic is as it had found it" if now == before else "the traffic is somebody else's, and stays"
        return Repair(traffic=None, why=why, outcome=Outcome.ABANDONED)
    if plan.action == "rollback" and sound.issuperset(wished[-1]):
        return Repair(traffic=wished[-1], why="a person wished it, so it is finished", outcome=Outcome.ROLLED_BACK)
    if now == wished[-1] == {slot: 100} and through(own):
        return Repair(traffic=None, why="all its steps had passed", outcome=Outcome.RELEASED)
    if there.issuperset(before):  # whatever its last update came to: it had the traffic
        undo = before if mirrored or now != before else None
        return Repair(traffic=undo, why="it had stopped half way, so it is undone", outcome=Outcome.RESTORED)
    if passed(own) and not failed(own) and slot in sound:
        why = "what was live before is gone, and this has passed the gate"
        return Repair(traffic={slot: 100}, why=why, outcome=Outcome.RELEASED)
    why = "neither what was live before nor what has passed the gate stands"
    return Repair(traffic={}, why=why, outcome=Outcome.RESTORED)


def passed(records: Sequence[Record]) -> bool:
    """Whether the gate let this rollout's version through, or a person did."""
    return any(
        verdict.what in ("gate", "skipped") and verdict.verdict in ("pass", "skipped") for verdict in _verdicts(records)
    )


def failed(records: Sequence[Record]) -> bool:
    """Whether a soak was not passed."""
    return any(verdict.what == "soak" and verdict.verdict != "pass" for verdict in _verdicts(records))


def through(records: Sequence[Record]) -> bool:
    """Whether the last step's soak was passed, or no gate was asked at all."""
    return passed(records) and any(
        verdict.what == "skipped" or (verdict.what, verdict.share, verdict.verdict) == ("soak", 100, "pass")
        for verdict in _verdicts(records)
    )


def _verdicts(records: Sequence[Record]) -> list[Verdict]:
    return [record.facts for record in records if isinstance(record.facts, Verdict)]


def recover(session: Session, hold: Hold, name: str) -> Repair | None:
    """Bring an endpoint into a known state before anything else is done to it.

    Returns:
        What was done; None where the last rollout has ended.
    """
    dead = unfinished([record for record in hold.records() if record.rollout != hold.rollout])
    if not dead:
        return None
    found = endpoints.settle(session, name)
    standing = endpoints.settled_deployments(session, name) if found else []
    wanted = repair(dead, found, standing)
    begun = dead[0]
    how = "was broken off" if hold.broke else "was left by a runner that is gone"
    session.console.warn(f"the rollout of {begun.at:%Y-%m-%d %H:%M} by {begun.by} {how}: {wanted.why}")
    now = shares(found.traffic) if found else {}
    if wanted.traffic is not None:
        now = dict(wanted.traffic)
        endpoints.set_traffic(session, name, now, fence=lambda: hold.write(TrafficIntent(wanted=now, what="recover")))
        hold.write(TrafficMoved(traffic=now))
        session.console.say(f"the traffic of {name} is {now or 'none'}")
    for rollout in dict.fromkeys(record.rollout for record in dead):
        overruled = hold.broke == rollout and wanted.outcome is not Outcome.RELEASED
        outcome = Outcome.OVERRULED if overruled else wanted.outcome
        hold.write(End(outcome=outcome, traffic=now, error=wanted.why), rollout=rollout)
    return wanted
