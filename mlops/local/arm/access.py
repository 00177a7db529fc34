"""Who may do what: the role assignments of the subscription, evaluated as Azure does."""

from __future__ import annotations

from dataclasses import dataclass

from mlops.local.arm.errors import ArmError
from mlops.local.arm.roles import BY_ID, Role
from mlops.local.state.store import Document, Store

COLLECTION = "/providers/microsoft.authorization/roleassignments"
MAX_CACHED = 8192


@dataclass(frozen=True)
class Grant:
    """A role that a principal has at a scope and below it."""

    role: Role
    scope: str

    def covers(self, scope: str) -> bool:
        """Whether a scope is this one or lies below it (compared in lower case)."""
        return self.scope == "/" or scope == self.scope or scope.startswith(self.scope + "/")


class Access:
    """Answers from memory until an assignment changes."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._seen = -1
        self._grants: dict[str, list[Grant]] = {}
        self._decided: dict[tuple[str, str, str, bool], bool] = {}

    def assignments(self) -> list[Document]:
        """Every role assignment, in the order in which they were made."""
        return self._store.ending(COLLECTION)

    def grants(self, principal: str, scope: str = "") -> list[Grant]:
        """What a principal has; with a scope, what of it reaches there."""
        if self._seen != self._store.generation:
            self._read()
        grants = self._grants.get(principal, [])
        return [grant for grant in grants if grant.covers(scope.lower())] if scope else grants

    def allows(self, principal: str, action: str, scope: str, *, data: bool = False) -> bool:
        """Whether one of the principal's assignments permits an action at a scope."""
        if self._seen != self._store.generation:
            self._read()
        key = (principal, action, scope, data)
        decision = self._decided.get(key)
        if decision is None:
            decision = any(grant.role.permits(action, data=data) for grant in self.grants(principal, scope))
            if len(self._decided) >= MAX_CACHED:
                self._decided.clear()
            self._decided[key] = decision
        return decision

    def need(self, principal: str, client: str, action: str, scope: str) -> None:
        """Refuse what nothing permits, in Azure's words."""
        if not self.allows(principal, action, scope):
            message = (
                f"The client '{client}' with object id '{principal}' does not have authorization to perform action "
                f"'{action}' over scope '{scope}' or the scope is invalid. If access was recently granted, please "
                "refresh your credentials."
            )
            raise ArmError(403, "AuthorizationFailed", message)

    def _read(self) -> None:
        seen = self._store.generation
        grants: dict[str, list[Grant]] = {}
        for body in self.assignments():
            properties = body["properties"]
            role = BY_ID.get(str(properties["roleDefinitionId"]).rsplit("/", 1)[-1].lower())
            if role is not None:
                grants.setdefault(properties["principalId"], []).append(Grant(role, properties["scope"].lower()))
        self._grants, self._decided, self._seen = grants, {}, seen
