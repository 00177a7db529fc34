"""The region's quota of cores: what of each family is used and allowed, and requests for more."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mlops.azure.errors import translated
from mlops.azure.session import Session
from mlops.core.interrupts import stay_interruptible
from mlops.core.resources import Usage

DECISION_S = 60.0
"""What Azure decides by itself is decided by then; the rest waits for a person of Microsoft's."""


def usages(session: Session, region: str | None = None) -> list[Usage]:
    """Use and limit per family in a region, the workspace's by default (``GET locations/{region}/usages``).

    Managed endpoints and clusters of a workspace draw on the same quota. The regional total comes along under its own
    name.
    """
    with translated("read the region's quota"):
        return [_usage(item) for item in session.ml.compute.list_usage(location=region)]


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


@dataclass(frozen=True, kw_only=True)
class Request:
    """A wish for a higher limit of one family, and what became of it."""

    family: str
    limit: int
    state: str
    """``Accepted``, ``InProgress``, ``Succeeded``, ``Failed``, ``Invalid``."""
    message: str = ""
    submitted: str = ""
    """ISO 8601, so that later ones sort behind earlier ones."""


def requests(session: Session, region: str) -> list[Request]:
    """The requests for more quota that were made in a region."""
    operations = session.managers.quota.quota_request_status
    with translated("list the requests for quota"):
        return [request for item in operations.list(_scope(session, region)) for request in _requests(item)]


def ask(session: Session, region: str, family: str, limit: int) -> str:
    """Ask for a limit of dedicated vCPUs, and wait a while for the decision, which may take a person days.

    Args:
        session: the login.
        region: where.
        family: as a machine size names it.
        limit: the new limit, not the difference.

    Returns:
        ``granted``, or ``open`` where it is not decided yet.

    Raises:
        MlopsError: it was refused, or cannot be made; the sentence is Azure's.
    """
    body = {
        "properties": {
            "limit": {"limitObjectType": "LimitValue", "value": limit},
            "name": {"value": family},
            "resourceType": "dedicated",
        }
    }
    operations = session.managers.quota.quota
    with translated(f"ask for {limit} vCPUs of '{family}'"):
        poller = operations.begin_create_or_update(family, _scope(session, region), body)
        stay_interruptible()
        poller.wait(DECISION_S)
        if not poller.done():
            return "open"
        poller.result()
    return "granted"


def _scope(session: Session, region: str) -> str:
    provider = "Microsoft.MachineLearningServices"
    return f"subscriptions/{session.ml.subscription_id}/providers/{provider}/locations/{region}"


def _requests(item: Any) -> list[Request]:
    document = item.as_dict()
    properties = document.get("properties") or {}
    limits = properties.get("value") or [properties]
    submitted = str(properties.get("requestSubmitTime") or "")
    return [
        Request(
            family=str((part.get("name") or {}).get("value") or part.get("resourceName") or ""),
            limit=int((part.get("limit") or {}).get("value") or 0),
            state=str(part.get("provisioningState") or properties.get("provisioningState") or ""),
            message=str(part.get("message") or properties.get("message") or ""),
            submitted=submitted,
        )
        for part in limits
    ]
