"""The ledger of an endpoint: lock and history of its rollouts, in the workspace's own storage."""

from mlops.ledger.ledger import Ledger
from mlops.ledger.lock import Hold
from mlops.ledger.owner import Held, Overruled
from mlops.ledger.records import Entry, Kind, Record, approved, cleared, history, idle_since, unfinished

__all__ = [
    "Entry",
    "Held",
    "Hold",
    "Kind",
    "Ledger",
    "Overruled",
    "Record",
    "approved",
    "cleared",
    "history",
    "idle_since",
    "unfinished",
]
