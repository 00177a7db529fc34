"""A rollout that its runner left half way, looked after without beginning another one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlops.azure import endpoints
from mlops.ledger import Begin, End, Held, Ledger, Outcome, unfinished
from mlops.rollout.recovery import Repair, recover, repair

if TYPE_CHECKING:
    from mlops.azure.session import Session


def mend_left(session: Session, name: str) -> Repair | None:
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
        with ledger.hold(action="recover", wait_s=0) as hold:
            if not unfinished(hold.records()):
                return None  # it has ended, or somebody else was here, since we looked
            hold.write(Begin(reason="its runner is gone"))
            repaired = recover(session, hold, name)
            ended = hold.records()[-1].facts
            traffic = ended.traffic if isinstance(ended, End) else None
            hold.write(End(outcome=Outcome.RECOVERED, traffic=traffic or {}))
            return repaired
    except Held:
        return None


def would_mend(session: Session, name: str) -> Repair | None:
    """What :func:`mend_left` would do, by a look without the lease."""
    records, held = Ledger(session, name).look()
    dead = unfinished(records)
    if held or not dead:
        return None
    found = endpoints.get(session, name)
    return repair(dead, found, endpoints.deployments(session, name) if found else [])
