"""User-assigned identities, and whose statements they trust in place of a secret."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from mlops.azure.errors import NotFoundError, translated
from mlops.azure.github import AUDIENCE
from mlops.azure.session import Session
from mlops.core import retry
from mlops.core.errors import MlopsError
from mlops.core.retry import Backoff

ISSUER = "https://token.actions.githubusercontent.com"
AT_ONCE = re.compile(r"concurrent|conflict|another operation", re.IGNORECASE)
ATTEMPTS = 5
BACKOFF = Backoff(first_s=1.0, longest_s=10.0)


@dataclass(frozen=True, kw_only=True)
class Identity:
    """A user-assigned identity: its ARM id, and the two ids by which Entra knows it."""

    id: str
    name: str
    client_id: str
    principal_id: str
    tags: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Federation:
    """A federated credential: the one subject of an issuer that may log in as the identity."""

    name: str
    issuer: str
    subject: str
    audiences: tuple[str, ...]

    @property
    def of_github(self) -> bool:
        """Whether it is what a GitHub job's statement can match."""
        return self.issuer == ISSUER and self.audiences == (AUDIENCE,)


def get(session: Session, name: str, group: str) -> Identity | None:
    """An identity of a resource group; None where there is none."""
    operations = session.managers.identities.user_assigned_identities
    try:
        with translated(f"look up the identity '{name}'"):
            entity = operations.get(group, name)
    except NotFoundError:
        return None
    return Identity(
        id=str(entity.id),
        name=str(entity.name),
        client_id=str(entity.client_id),
        principal_id=str(entity.principal_id),
        tags=dict(entity.tags or {}),
    )


def resolved(session: Session, identity: str | None) -> str | None:
    """The ARM id of an identity that is named, in the workspace's group, or given by its id already."""
    if identity is None or identity.startswith("/"):
        return identity
    group = f"/subscriptions/{session.ml.subscription_id}/resourceGroups/{session.ml.resource_group_name}"
    return f"{group}/providers/Microsoft.ManagedIdentity/userAssignedIdentities/{identity}"


def create(session: Session, name: str, group: str, *, region: str, tags: Mapping[str, str]) -> Identity:
    """Create an identity, or find the one that is there."""
    from azure.mgmt.msi.v2024_11_30.models import Identity as IdentityBody

    operations = session.managers.identities.user_assigned_identities
    with translated(f"create the identity '{name}'"):
        operations.create_or_update(group, name, IdentityBody(location=region, tags=dict(tags)))
    identity = get(session, name, group)
    if identity is None:
        raise NotFoundError(f"the identity '{name}' was made and is not there", hint="run mlops setup again")
    return identity


def delete(session: Session, name: str, group: str) -> None:
    """Delete an identity with its federated credentials; one that is gone is no error."""
    operations = session.managers.identities.user_assigned_identities
    try:
        with translated(f"delete the identity '{name}'"):
            operations.delete(group, name)
    except NotFoundError:
        return


def federations(session: Session, name: str, group: str) -> list[Federation]:
    """The federated credentials of an identity."""
    operations = session.managers.identities.federated_identity_credentials
    try:
        with translated(f"list the federated credentials of '{name}'"):
            return [
                Federation(
                    name=str(item.name),
                    issuer=str(item.issuer),
                    subject=str(item.subject),
                    audiences=tuple(item.audiences or ()),
                )
                for item in operations.list(group, name)
            ]
    except NotFoundError:
        return []


def trust(session: Session, name: str, group: str, *, credential: str, subject: str) -> None:
    """Let GitHub jobs of one subject log in as an identity. Entra takes one such change of an identity at a time."""
    from azure.mgmt.msi.v2024_11_30.models import FederatedIdentityCredential

    operations = session.managers.identities.federated_identity_credentials
    body = FederatedIdentityCredential(issuer=ISSUER, subject=subject, audiences=[AUDIENCE])

    def create() -> None:
        with translated(f"let '{subject}' log in as '{name}'"):
            operations.create_or_update(group, name, credential, body)

    def is_busy(error: BaseException) -> bool:
        return isinstance(error, MlopsError) and AT_ONCE.search(error.message) is not None

    retry.call(create, attempts=ATTEMPTS, backoff=BACKOFF, passing=is_busy)
