"""Types of resources that operations write and delete, with the provisioning state in the resource itself."""

from __future__ import annotations

from typing import Any, ClassVar

from mlops.local.arm.resources import ResourceType
from mlops.local.state.store import Document
from mlops.local.state.workspace import Workspace


class OperatedType(ResourceType):
    """Registers an operation that writes and one that deletes; a resource whose operation fails is ``Failed``."""

    writes: ClassVar[str] = "write"
    """What the operation that writes is called after the type: ``endpoint.write``."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        workspace.operations.register(f"{self.operation}.{self.writes}", self._write, failed=self._failed)
        workspace.operations.register(f"{self.operation}.delete", self._delete, failed=self._failed)

    @property
    def operation(self) -> str:
        """What its operations are called; fault rules name them."""
        return self.kind

    def enter(self, resource_id: str, state: str) -> Document | None:
        """Set the provisioning state; the document, None where the resource is gone."""

        def mark(body: Document) -> None:
            body["properties"]["provisioningState"] = state

        return self._workspace.store.update(resource_id, mark)

    def _failed(self, resource_id: str) -> None:
        self.enter(resource_id, "Failed")

    async def _write(self, resource_id: str, arguments: dict[str, Any]) -> None:
        """The work of a write; may run again after a restart."""
        raise NotImplementedError

    async def _delete(self, resource_id: str, arguments: dict[str, Any]) -> None:
        """The work of a deletion; may run again after a restart."""
        raise NotImplementedError
