"""The region's quota of cores: what of each family is used and allowed."""

from __future__ import annotations

from typing import Any

from mlops.azure.errors import translated
from mlops.azure.session import Session
from mlops.resources import Usage


def usages(session: Session) -> list[Usage]:
    """Use and limit per family in the workspace's region (``GET locations/{region}/usages``).

    Managed endpoints and clusters of a workspace draw on the same quota. The regional total comes along under its own
    name.
    """
    with translated("read the region's quota"):
        return [_usage(item) for item in session.ml.compute.list_usage()]


def _usage(item: Any) -> Usage:
    # The SDK copies the wire's names into an object that has names of its own, which stay empty.
    values = {key.replace("_", "").lower(): value for key, value in vars(item).items() if value is not None}
    name = values.get("name") or {}
    limit = int(values.get("limit", -1))
    return Usage(
        family=str(name.get("value") if isinstance(name, dict) else getattr(name, "value", "")),
        used=int(values.get("currentvalue", 0)),
        limit=limit if limit >= 0 else None,
    )
