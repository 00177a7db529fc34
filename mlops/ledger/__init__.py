"""The ledger of an endpoint: lock and history of its rollouts, in the workspace's own storage."""

from mlops.ledger.ledger import Ledger
from mlops.ledger.lock import Lock
from mlops.ledger.outcomes import Health, Outcome
from mlops.ledger.owner import LeaseLost, Locked
from mlops.ledger.queries import Entry, approved, cleared, history, idle_since, unfinished
from mlops.ledger.records import (
    Begin,
    Deployed,
    End,
    Facts,
    Kind,
    Planned,
    Record,
    ReplacedVersion,
    TrafficIntent,
    TrafficMoved,
    Verdict,
)

__all__ = [
    "Begin",
    "Deployed",
    "End",
    "Entry",
    "Facts",
    "Health",
    "Kind",
    "LeaseLost",
    "Ledger",
    "Lock",
    "Locked",
    "Outcome",
    "Planned",
    "Record",
    "ReplacedVersion",
    "TrafficIntent",
    "TrafficMoved",
    "Verdict",
    "approved",
    "cleared",
    "history",
    "idle_since",
    "unfinished",
]
