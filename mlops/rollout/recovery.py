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
    from mlops.ledger import Lock, Record


@dataclass(frozen=True, kw_only=True)
class RecoveryDecision:
    """What is to be done.

    Attributes:
        traffic: the map to set; None leaves it as it is.
        why: for people.
        outcome: how the rollout ends in the history.
    """

    traffic: Mapping[str, int] | None
    why: str
    outcome: Outcome


def decide_recovery(
    records: Sequence[Record], endpoint: Endpoint | None, deployments: Sequence[Deployment]
) -> RecoveryDecision:
    """Decide by the records of what has not ended and by what Azure holds, both looked at under the lease.

    A rollout that has passed its last soak is finished, and so is a rollback, since a person wished it. Any other one
    is undone. Traffic that the records do not explain is somebody else's work and stays.

    Args:
        records: of what has not ended; where one who came to help died too, his are among them.
        endpoint: as Azure holds it; None where there is none.
        deployments: of the endpoint.
    """
    plans = [(index, record.facts) for index, record in enumerate(records) if isinstance(record.facts, Planned)]
    if not plans or endpoint is None:
        return RecoveryDecision(traffic=None, why="it had changed nothing", outcome=Outcome.ABANDONED)
    index, plan = plans[-1]
    own = records[index:]
    before, now = shares(plan.before or {}), shares(endpoint.traffic)
    intents = [shares(record.facts.desired or {}) for record in own if isinstance(record.facts, TrafficIntent)]
    if not intents or now not in (before, *intents):
        why = "the traffic is as it had found it" if now == before else "the traffic is somebody else's, and stays"
        return RecoveryDecision(traffic=None, why=why, outcome=Outcome.ABANDONED)
    return _finish(plan, own, intents[-1], now, deployments) or _undo(plan, own, endpoint, deployments)


def _finish(
    plan: Planned,
    own: Sequence[Record],
    intent: dict[str, int],
    now: dict[str, int],
    deployments: Sequence[Deployment],
) -> RecoveryDecision | None:
    """Bring a rollout to its end that was to be finished; None where it is to be undone."""
    if plan.action == "rollback" and _sound(deployments).issuperset(intent):
        return RecoveryDecision(
            traffic=intent, why="a rollback was requested, so it is completed", outcome=Outcome.ROLLED_BACK
        )
    if now == intent == {_slot(plan): 100} and passed_last_soak(own):
        return RecoveryDecision(traffic=None, why="all its steps had passed", outcome=Outcome.RELEASED)
    return None


def _undo(
    plan: Planned, own: Sequence[Record], endpoint: Endpoint, deployments: Sequence[Deployment]
) -> RecoveryDecision:
    """Back to the traffic before; where what had it is gone, to what has passed the gate, or to nothing."""
    before, slot = shares(plan.before or {}), _slot(plan)
    if {item.name.lower() for item in deployments}.issuperset(before):  # whatever its last update came to
        untouched = shares(endpoint.traffic) == before and not shares(endpoint.mirror)
        why = "it had stopped half way, so it is undone"
        return RecoveryDecision(traffic=None if untouched else before, why=why, outcome=Outcome.RESTORED)
    if passed_gate(own) and not failed_soak(own) and slot in _sound(deployments):
        why = "what was live before is gone, and this has passed the gate"
        return RecoveryDecision(traffic={slot: 100}, why=why, outcome=Outcome.RELEASED)
    why = "neither what was live before nor what has passed the gate stands"
    return RecoveryDecision(traffic={}, why=why, outcome=Outcome.RESTORED)


def _slot(plan: Planned) -> str:
    return (plan.slot or "").lower()


def _sound(deployments: Sequence[Deployment]) -> set[str]:
    return {item.name.lower() for item in deployments if item.state.lower() == "succeeded"}


def passed_gate(records: Sequence[Record]) -> bool:
    """Whether the gate let this rollout's version through, or a person did."""
    return any(
        verdict.what in ("gate", "skipped") and verdict.verdict in ("pass", "skipped") for verdict in _verdicts(records)
    )


def failed_soak(records: Sequence[Record]) -> bool:
    """Whether a soak was not passed."""
    return any(verdict.what == "soak" and verdict.verdict != "pass" for verdict in _verdicts(records))


def passed_last_soak(records: Sequence[Record]) -> bool:
    """Whether the last step's soak was passed, or no gate was asked at all."""
    return passed_gate(records) and any(
        verdict.what == "skipped" or (verdict.what, verdict.share, verdict.verdict) == ("soak", 100, "pass")
        for verdict in _verdicts(records)
    )


def _verdicts(records: Sequence[Record]) -> list[Verdict]:
    return [record.facts for record in records if isinstance(record.facts, Verdict)]


def recover(session: Session, lock: Lock, name: str) -> RecoveryDecision | None:
    """Bring an endpoint into a known state before anything else is done to it.

    Returns:
        What was done; None where the last rollout has ended.
    """
    abandoned = unfinished([record for record in lock.records() if record.rollout != lock.rollout])
    if not abandoned:
        return None
    endpoint = endpoints.settle(session, name)
    deployments = endpoints.settled_deployments(session, name) if endpoint else []
    decision = decide_recovery(abandoned, endpoint, deployments)
    begun = abandoned[0]
    how = "was broken off" if lock.superseded else "was left by a runner that is gone"
    session.console.warn(f"the rollout of {begun.at:%Y-%m-%d %H:%M} by {begun.by} {how}: {decision.why}")
    now = shares(endpoint.traffic) if endpoint else {}
    if decision.traffic is not None:
        now = dict(decision.traffic)
        endpoints.set_traffic(session, name, now, fence=lambda: lock.write(TrafficIntent(desired=now, what="recover")))
        lock.write(TrafficMoved(traffic=now))
        session.console.say(f"the traffic of {name} is {now or 'none'}")
    for rollout in dict.fromkeys(record.rollout for record in abandoned):
        overruled = lock.superseded == rollout and decision.outcome is not Outcome.RELEASED
        outcome = Outcome.OVERRULED if overruled else decision.outcome
        lock.write(End(outcome=outcome, traffic=now, error=decision.why), rollout=rollout)
    return decision
