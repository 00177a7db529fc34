"""Who holds an endpoint, as far as its records tell."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC

from mlops.core import process
from mlops.core.errors import PreconditionError
from mlops.ledger.queries import unfinished
from mlops.ledger.records import Begin, Record


class Locked(PreconditionError):
    """Somebody else is changing the endpoint."""


class LeaseLost(PreconditionError):
    """The lease was broken or taken: whoever did so decides now."""


@dataclass(frozen=True)
class Owner:
    """Who seems to hold a lease: the rollout that has begun and not ended."""

    record: Record

    @classmethod
    def of(cls, records: Sequence[Record]) -> Owner | None:
        """None where nobody has begun: the holder is about to, or about to release."""
        unended = unfinished(records)
        return cls(next(record for record in unended if record.rollout == unended[-1].rollout)) if unended else None

    @property
    def facts(self) -> Begin:
        """What the rollout has told of itself; empty where its ``begin`` is not among the records."""
        return self.record.facts if isinstance(self.record.facts, Begin) else Begin()

    @property
    def lease(self) -> str:
        """The id of its lease."""
        return lease_id(self.record.rollout)

    @property
    def is_alive(self) -> bool | None:
        """Whether its process runs; None where it is one of another machine."""
        return process.is_alive(self.facts.machine)

    def __str__(self) -> str:
        record, facts = self.record, self.facts
        named = ":".join(part for part in (facts.model, facts.version) if part)
        what = facts.action or "rollout"
        return f"{record.by} ({what}{f' of {named}' if named else ''}, since {record.at.astimezone(UTC):%F %T} UTC)"


def lease_id(rollout: str) -> str:
    """A rollout's lease has the rollout's id, so that one can give back the lease of a dead one, and no other."""
    try:
        return str(uuid.UUID(rollout))
    except ValueError:  # a line that somebody wrote by hand
        return str(uuid.uuid5(uuid.NAMESPACE_OID, rollout))
