"""Records of an endpoint's ledger as tests need them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from mlops.ledger import Kind, Record


def record(kind: Kind, *, rollout: str = "r", by: str = "ada", at: datetime | None = None, **facts: Any) -> Record:
    """A record with these facts, of whatever form: as it is read from a line."""
    return Record.model_validate(
        {"rollout": rollout, "kind": kind, "by": by, "at": at or datetime.now(UTC), "facts": facts}
    )
