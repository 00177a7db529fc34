"""A rollout that its runner left half way, looked after without beginning another one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlops.azure import endpoints
from mlops.ledger import Begin, End, Ledger, Locked, Outcome, unfinished
from mlops.rollout.recovery import RecoveryDecision, decide_recovery, recover

if TYPE_CHECKING:
    from mlops.azure.session import Session


def recover_abandoned(session: Session, name: str) -> RecoveryDecision | None:
    """Finish or undo what a dead runner left of a rollout, by its record.

    Args:
        session: the workspace.
        name: the endpoint.

    Returns:
        What was done; None where nothing is left, or where somebody is at work.
    """
    ledger = Ledger(session, name)
    if not unfinished(ledger.read()):
        return None
    try:
        with ledger.acquire(action="recover", wait_s=0) as lock:
            if not unfinished(lock.records()):
                return None  # it has ended, or somebody else was here, since we looked
            lock.write(Begin(reason="its runner is gone"))
            decision = recover(session, lock, name)
            ended = lock.records()[-1].facts
            traffic = ended.traffic if isinstance(ended, End) else None
            lock.write(End(outcome=Outcome.RECOVERED, traffic=traffic or {}))
            return decision
    except Locked:
        return None


def plan_recovery(session: Session, name: str) -> RecoveryDecision | None:
    """What :func:`recover_abandoned` would do, decided without the lease."""
    records, locked = Ledger(session, name).inspect()
    abandoned = unfinished(records)
    if locked or not abandoned:
        return None
    endpoint = endpoints.get(session, name)
    return decide_recovery(abandoned, endpoint, endpoints.deployments(session, name) if endpoint else [])
