"""The ledger of an endpoint: lock and history of its rollouts, in the workspace's own storage."""

from mlops.ledger.holding import Held, Hold, Ledger, Overruled
from mlops.ledger.records import Entry, Kind, Record, approved, history, idle_since, unfinished

__all__ = [
    "Entry",
    "Held",
    "Hold",
    "Kind",
    "Ledger",
    "Overruled",
    "Record",
    "approved",
    "history",
    "idle_since",
    "unfinished",
]
