"""What stands: the endpoint, both slots with what is in them, and the workspace's other endpoints."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, TypeVar

from mlops import ledger
from mlops.azure import endpoints, models
from mlops.cleanup import inventory
from mlops.config.settings import SLOTS
from mlops.core.errors import MlopsError
from mlops.core.resources import Deployment, Endpoint, ModelVersion
from mlops.training.register import model_name

if TYPE_CHECKING:
    from mlops.azure.session import Session

Value = TypeVar("Value")


@dataclass(frozen=True, kw_only=True)
class Slot:
    """A slot, also an empty one.

    Attributes:
        deployment: what is deployed to it; None where it is empty.
        traffic: per cent of live requests.
        mirror: per cent of live requests that it gets copies of.
        model: the version that stands in it, where the workspace still has it.
        cleared: whether it may have traffic by the history; None where that cannot be read.
        idle: how long it has been without traffic.
    """

    name: str
    deployment: Deployment | None = None
    traffic: int = 0
    mirror: int = 0
    model: ModelVersion | None = None
    cleared: bool | None = None
    idle: timedelta | None = None


@dataclass(frozen=True, kw_only=True)
class Other:
    """Another endpoint of the workspace: a preview, or somebody else's."""

    endpoint: Endpoint
    kind: str
    age: timedelta | None


@dataclass(frozen=True, kw_only=True)
class Overview:
    """The endpoint of a target; without one, only its name is known."""

    name: str
    endpoint: Endpoint | None
    slots: tuple[Slot, ...] = ()
    others: tuple[Other, ...] = ()
    notes: tuple[str, ...] = field(default=())

    @property
    def deployed_slots(self) -> tuple[Slot, ...]:
        """The slots that can be asked."""
        return tuple(slot for slot in self.slots if slot.deployment is not None)


def read_overview(session: Session) -> Overview:
    """Look at the endpoint; what else cannot be read becomes a note.

    Raises:
        MlopsError: Azure does not tell of the endpoint.
    """
    settings = session.settings
    name = settings.endpoint.name
    notes: list[str] = []

    def attempt(what: str, ask: Callable[[], Value]) -> Value | None:
        try:
            return ask()
        except MlopsError as error:
            notes.append(f"{what} cannot be read: {error.message}")
            return None

    endpoint = endpoints.get(session, name)
    listed = attempt("other endpoints", lambda: endpoints.listed(session)) or []
    others = tuple(_other(session, item) for item in listed if item.name.lower() != name.lower())
    if endpoint is None:
        return Overview(name=name, endpoint=None, others=others, notes=tuple(notes))
    deployments = {item.name: item for item in endpoints.deployments(session, name)}
    known = attempt("the models", lambda: models.versions(session, model_name(settings), archived=True)) or []
    records = attempt("the history", lambda: ledger.Ledger(session, name).read())
    names = [*SLOTS, *sorted(set(deployments) - set(SLOTS))]
    slots = tuple(_slot(slot, deployments.get(slot), endpoint, known, records) for slot in names)
    return Overview(name=name, endpoint=endpoint, slots=slots, others=others, notes=tuple(notes))


def _slot(
    name: str,
    deployment: Deployment | None,
    endpoint: Endpoint,
    known: Sequence[ModelVersion],
    records: Sequence[ledger.Record] | None,
) -> Slot:
    if deployment is None:
        return Slot(name=name)
    traffic = inventory.share(endpoint.traffic, name)
    version_key = (deployment.model, deployment.model_version)
    since = None if traffic or records is None else ledger.idle_since(records, name)
    return Slot(
        name=name,
        deployment=deployment,
        traffic=traffic,
        mirror=inventory.share(endpoint.mirror, name),
        model=next((item for item in known if (item.name, item.version) == version_key), None),
        cleared=None if records is None else ledger.cleared(records, name),
        idle=datetime.now(UTC) - since if since else None,
    )


def _other(session: Session, endpoint: Endpoint) -> Other:
    settings = session.settings.endpoint
    created_at = inventory.created(endpoint, settings.preview_prefix)
    age = datetime.now(UTC) - created_at if created_at else None
    return Other(endpoint=endpoint, kind=inventory.kind(endpoint, settings.name), age=age)
