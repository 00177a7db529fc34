"""Who there is to give a role to: the workspace's own login, managed identities, workspaces' identities."""

from __future__ import annotations

from mlops.local.state.config import Config
from mlops.local.state.store import Document, Store

IDENTITIES = "/providers/microsoft.managedidentity/userassignedidentities"
WORKSPACES = "/providers/microsoft.machinelearningservices/workspaces"


class Principals:
    """Reads them from the resources that they belong to."""

    def __init__(self, store: Store, config: Config, login: str) -> None:
        self._store = store
        self._config = config
        self._login = login

    def known(self, principal: str, *, at: float) -> bool:
        """Whether the directory has a principal at a moment; a new one is everywhere only after a while."""
        if principal == self._login:
            return True
        for body in self._store.ending(IDENTITIES):
            if body["properties"]["principalId"] == principal:
                made = float(self._store.private(body["id"]).get("made", 0))
                return at >= made + self._config.principal_s
        return any(
            (body.get("identity") or {}).get("principalId") == principal for body in self._store.ending(WORKSPACES)
        )

    def identity(self, client_id: str) -> Document | None:
        """The managed identity with a client id."""
        identities = self._store.ending(IDENTITIES)
        return next((body for body in identities if body["properties"]["clientId"] == client_id.lower()), None)

    def credentials(self, identity_id: str) -> list[Document]:
        """The federated credentials of an identity."""
        return self._store.children(f"{identity_id}/federatedIdentityCredentials")
