"""The resource group, and what is in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from mlops.azure.errors import NotFoundError, translated
from mlops.azure.session import Session, finished


@dataclass(frozen=True, kw_only=True)
class GroupResource:
    """A resource of a group, as its list shows it."""

    id: str
    name: str
    type: str
    kind: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Group:
    """A resource group."""

    id: str
    name: str
    region: str
    state: str
    tags: Mapping[str, str] = field(default_factory=dict)


def get(session: Session, name: str) -> Group | None:
    """A group by its name; None where there is none."""
    try:
        with translated(f"look up the resource group '{name}'"):
            group = session.managers.resources.resource_groups.get(name)
    except NotFoundError:
        return None
    return Group(
        id=str(group.id),
        name=str(group.name),
        region=str(group.location),
        state=str(group.properties.provisioning_state if group.properties else ""),
        tags=dict(group.tags or {}),
    )


def create(session: Session, name: str, *, region: str, tags: Mapping[str, str]) -> None:
    """Create a group, or write its tags anew."""
    with translated(f"create the resource group '{name}'"):
        session.managers.resources.resource_groups.create_or_update(name, {"location": region, "tags": dict(tags)})


def delete(session: Session, name: str) -> None:
    """Delete a group and all that is in it; one that is gone is no error."""
    try:
        with translated(f"delete the resource group '{name}'"):
            finished(session.managers.resources.resource_groups.begin_delete(name))
    except NotFoundError:
        return


def contents(session: Session, name: str) -> list[GroupResource]:
    """Every top-level resource of a group; none where there is no group."""
    try:
        with translated(f"list what is in the resource group '{name}'"):
            return [
                GroupResource(
                    id=str(item.id),
                    name=str(item.name),
                    type=str(item.type),
                    kind=str(item.kind or ""),
                    tags=dict(item.tags or {}),
                )
                for item in session.managers.resources.resources.list_by_resource_group(name)
                if not str(item.type).lower().startswith("microsoft.authorization/")  # who may do what holds nothing
            ]
    except NotFoundError:
        return []
