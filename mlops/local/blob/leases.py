"""Leases on blobs: who holds one, for how long, and what that forbids to others.

The states and outcomes are those of the tables in "Lease Blob" of the Azure Storage REST reference. Times in the
database are wall-clock times, so that a lease outlives the daemon that granted it.
"""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass, replace

from mlops.local.blob.errors import BlobError
from mlops.local.state.store import Store

SCHEMA = """
CREATE TABLE IF NOT EXISTS blob_lease (
  container TEXT NOT NULL, name TEXT NOT NULL, id TEXT NOT NULL, duration_s INTEGER NOT NULL,
  expires REAL, breaks REAL, PRIMARY KEY (container, name)
) WITHOUT ROWID;
"""
INFINITE = -1


@dataclass(frozen=True)
class Lease:
    """A lease as kept; ``expires`` is None for an infinite one, ``breaks`` is when a break takes effect."""

    id: str
    duration_s: int
    expires: float | None
    breaks: float | None = None

    @property
    def state(self) -> str:
        """leased, expired, breaking or broken."""
        now = time.time()
        if self.breaks is not None:
            return "broken" if self.breaks <= now else "breaking"
        return "expired" if self.expires is not None and self.expires <= now else "leased"

    @property
    def locks(self) -> bool:
        """Whether others are kept from writing."""
        return self.state in ("leased", "breaking")


class Leases:
    """The leases of all blobs; a caller holds the blobs' lock."""

    def __init__(self, store: Store) -> None:
        self._store = store
        with store.transaction() as connection:
            connection.execute(SCHEMA)

    def get(self, container: str, name: str) -> Lease | None:
        """The lease on a blob; None where it is available."""
        row = self._store.connection.execute(
            "SELECT id, duration_s, expires, breaks FROM blob_lease WHERE container = ? AND name = ?", (container, name)
        ).fetchone()
        return None if row is None else Lease(*row)

    def _put(self, container: str, name: str, lease: Lease) -> Lease:
        with self._store.transaction() as connection:
            connection.execute(
                "INSERT OR REPLACE INTO blob_lease VALUES (?, ?, ?, ?, ?, ?)",
                (container, name, lease.id, lease.duration_s, lease.expires, lease.breaks),
            )
        return lease

    def drop(self, container: str, name: str) -> None:
        """Make it available."""
        with self._store.transaction() as connection:
            connection.execute("DELETE FROM blob_lease WHERE container = ? AND name = ?", (container, name))

    def check(self, container: str, name: str, given: str | None, *, writes: bool) -> None:
        """Whether a request that names this lease (or none) may go on; raises :class:`BlobError`."""
        lease = self.get(container, name)
        if given is None:
            if lease is not None and lease.locks and writes:
                raise BlobError("LeaseIdMissing")
            return
        if lease is None:
            raise BlobError("LeaseNotPresentWithBlobOperation")
        if lease.id != given.lower():
            raise BlobError("LeaseIdMismatchWithBlobOperation")
        if not lease.locks:
            raise BlobError("LeaseLost" if lease.state == "expired" else "LeaseNotPresentWithBlobOperation")

    def written(self, container: str, name: str) -> None:
        """A write ends what is left of an expired or broken lease: it cannot be renewed any more."""
        lease = self.get(container, name)
        if lease is not None and not lease.locks:
            self.drop(container, name)

    # -- the five actions ------------------------------------------------------------------------------------------

    def acquire(self, container: str, name: str, *, duration_s: int, proposed: str | None) -> Lease:
        """A new lease, 15 to 60 s or infinite; the holder may acquire again."""
        if duration_s != INFINITE and not 15 <= duration_s <= 60:
            raise BlobError("InvalidHeaderValue", "x-ms-lease-duration must be -1 or between 15 and 60.")
        lease_id = _guid(proposed) if proposed else str(uuid.uuid4())
        lease = self.get(container, name)
        if lease is not None and lease.locks:
            if lease.id != lease_id:
                raise BlobError("LeaseAlreadyPresent")
            if lease.state == "breaking":
                raise BlobError("LeaseIsBreakingAndCannotBeAcquired")
        return self._put(container, name, _fresh(lease_id, duration_s))

    def renew(self, container: str, name: str, *, given: str | None) -> Lease:
        """Begin the time anew; an expired lease too, as long as nobody wrote or acquired since."""
        lease = self._active(container, name, given)
        if lease.breaks is not None:
            raise BlobError("LeaseIsBrokenAndCannotBeRenewed")
        return self._put(container, name, _fresh(lease.id, lease.duration_s))

    def change(self, container: str, name: str, *, given: str | None, proposed: str | None) -> Lease:
        """Another id for the same lease."""
        lease_id = _guid(proposed)
        lease = self.get(container, name)
        if lease is None or lease.state in ("expired", "broken"):
            raise BlobError("LeaseNotPresentWithLeaseOperation")
        if lease.id not in (_guid(given), lease_id):
            raise BlobError("LeaseIdMismatchWithLeaseOperation")
        if lease.state == "breaking":
            raise BlobError("LeaseIsBreakingAndCannotBeChanged")
        return self._put(container, name, replace(lease, id=lease_id))

    def release(self, container: str, name: str, *, given: str | None) -> None:
        """End it at once."""
        self._active(container, name, given)
        self.drop(container, name)

    def end(self, container: str, name: str, *, period_s: int | None) -> int:
        """Break it, whoever holds it; the seconds until others may acquire."""
        if period_s is not None and not 0 <= period_s <= 60:
            raise BlobError("InvalidHeaderValue", "x-ms-lease-break-period must be between 0 and 60.")
        lease = self.get(container, name)
        if lease is None:
            raise BlobError("LeaseNotPresentWithLeaseOperation")
        now = time.time()
        remaining = 0.0
        if lease.locks:
            remaining = max(0.0, (lease.breaks or lease.expires or now) - now)
            if period_s is not None:
                infinite = lease.expires is None and lease.breaks is None
                remaining = period_s if infinite else min(period_s, remaining)
        self._put(container, name, replace(lease, breaks=now + remaining))
        return round(remaining)

    def _active(self, container: str, name: str, given: str | None) -> Lease:
        lease_id = _guid(given)
        lease = self.get(container, name)
        if lease is None or lease.id != lease_id:
            raise BlobError("LeaseIdMismatchWithLeaseOperation")
        return lease


def _fresh(identity: str, duration_s: int) -> Lease:
    return Lease(identity, duration_s, None if duration_s == INFINITE else time.time() + duration_s)


def _guid(text: str | None) -> str:
    try:
        return str(uuid.UUID(text or ""))
    except ValueError as error:
        raise BlobError("InvalidHeaderValue", f"'{text or ''}' is not a lease id (a GUID).") from error
