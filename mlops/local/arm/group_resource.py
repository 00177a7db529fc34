"""What the resources of a group have in common: location and tags, names, states, an operation that makes them."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from typing import Any

from mlops.local.arm.errors import ArmError, bad_request
from mlops.local.arm.operated import OperatedType
from mlops.local.arm.operations import retry_after
from mlops.local.arm.resources import Answer, Call, merge, page
from mlops.local.arm.shapes import mapping, tags, text
from mlops.local.state.limits import Limits
from mlops.local.state.operations import now
from mlops.local.state.store import Document
from mlops.local.state.workspace import Workspace

BUSY = ("Creating", "RegisteringDns", "Deleting")


class GroupResource(OperatedType):
    """A resource with a location and tags, made by an operation whose state stands in the resource itself."""

    pattern: re.Pattern[str] = re.compile(r"[-\w.()]{1,260}")
    rule = "at most 260 letters, digits, '-', '_', '.' and parentheses"
    writes = "create"
    creating = "Creating"
    quick = False
    """Made at once instead of by an operation."""

    def __init__(self, workspace: Workspace, limits: Limits) -> None:
        super().__init__(workspace)
        self._limits = limits

    # -- what differs ----------------------------------------------------------------------------------------------

    def fill(self, call: Call, body: Document, existing: Document | None) -> None:
        """Check and complete the properties."""

    def taken(self, name: str) -> ArmError:
        """The 409 for a name that somebody else has."""
        return ArmError(409, "Conflict", f"The name '{name}' is already in use.")

    def check_new(self, call: Call) -> None:
        """Refuse a new resource under this name."""
        if not self.pattern.fullmatch(call.name):
            raise self.invalid(call.name)
        if call.name.lower() in self._limits.taken_names or self.elsewhere(call):
            raise self.taken(call.name)

    def elsewhere(self, call: Call) -> bool:
        """Whether the subscription has one of this name in another group, where names are the world's."""
        del call
        return False

    def invalid(self, name: str) -> ArmError:
        """The 400 for an illegal name."""
        return bad_request(f"'{name}' is not a valid name: {self.rule}.")

    # -- verbs -----------------------------------------------------------------------------------------------------

    async def put(self, call: Call) -> Answer:
        """Create, or replace tags and properties."""
        store = call.workspace.store
        existing = store.get(call.resource_id)
        location = text(call.body.get("location"), "location")
        if not location:
            raise ArmError(400, "LocationRequired", "The location property is required for this definition.")
        region = location.replace(" ", "").lower()
        if existing and existing["location"] != region:
            message = (
                f"The resource '{existing['name']}' already exists in location '{existing['location']}' in resource "
                f"group '{call.resource_id.split('/')[4]}'. A resource with the same name cannot be created in "
                f"location '{location}'. Please select a new resource name."
            )
            raise ArmError(409, "InvalidResourceLocation", message)
        if existing and existing["properties"].get("provisioningState") in BUSY:
            message = f"Another operation on '{existing['name']}' is in progress; try again when it is done."
            raise ArmError(409, "AnotherOperationInProgress", message)
        if existing is None:
            self.check_new(call)
        body = self.document(call, existing)
        body["location"], body["tags"] = region, tags(call.body.get("tags"))
        body["properties"] = {**((existing or {}).get("properties") or {}), **mapping(body["properties"], "properties")}
        self.fill(call, body, existing)
        fresh = existing is None and not self.quick
        body["properties"]["provisioningState"] = self.creating if fresh else "Succeeded"
        store.put(body["id"], body)
        if not fresh:
            return Answer(200 if existing or self.quick else 201, body)
        operation = call.workspace.operations.start(f"{self.operation}.{self.writes}", body["id"], prefix="")
        return self.began(call, body, operation)

    def began(self, call: Call, body: Document, operation: str) -> Answer:
        """The answer to a PUT whose work goes on."""
        del operation
        return Answer(201, body, retry_after(call.workspace.config.retry_after_s))

    async def patch(self, call: Call) -> Answer:
        """Replace the tags, merge the properties."""
        existing = self.must(call)
        given: Document = {key: call.body[key] for key in ("properties", "sku", "identity") if key in call.body}
        body = merge(existing, given)
        if "tags" in call.body:
            body["tags"] = tags(call.body["tags"])
        if not isinstance(body.get("properties"), dict):
            raise bad_request("The request body must hold an object 'properties'.")
        state = existing["properties"]["provisioningState"]
        self.fill(call, body, existing)
        body["properties"]["provisioningState"] = state
        body["systemData"] = {**body.get("systemData", {}), "lastModifiedAt": now(), "lastModifiedBy": call.caller}
        call.workspace.store.put(body["id"], body)
        return Answer(200, body)

    async def get(self, call: Call) -> Answer:
        """One; a HEAD says with its status alone whether it is there."""
        body = self.must(call)
        busy = body["properties"].get("provisioningState") in BUSY
        headers = retry_after(call.workspace.config.retry_after_s) if busy else {}
        return Answer(204) if call.method == "HEAD" else Answer(200, body, headers)

    async def list(self, call: Call) -> Answer:
        """Those of a group, or of the subscription."""
        marks = [part.lower() for part in call.resource_id.split("/")]
        if "resourcegroups" in marks:
            return page(self, call, call.workspace.store.children(call.resource_id), size=None)
        return page(self, call, [*self.all()], size=None)

    def all(self) -> Sequence[Document]:
        """Every resource of this type."""
        return self._workspace.store.ending(f"/providers/{self.full_kind}")

    async def delete(self, call: Call) -> Answer:
        """Delete at once; 204 where there is nothing."""
        body = call.workspace.store.get(call.resource_id)
        if body is None:
            return Answer(204)
        await self.gone(body)
        call.workspace.store.delete(call.resource_id)
        return Answer(200)

    def missing(self, call: Call) -> ArmError:
        """ARM's own 404."""
        segments = call.resource_id.split("/")
        message = (
            f"The Resource '{self.full_kind}/{call.name}' under resource group '{segments[4]}' was not "
            "found. For more details please go to https://aka.ms/ARMResourceNotFoundFix"
        )
        return ArmError(404, "ResourceNotFound", message)

    async def _write(self, resource_id: str, arguments: dict[str, Any]) -> None:
        del arguments
        await asyncio.sleep(self._workspace.config.resource_operation_s)
        self.enter(resource_id, "Succeeded")

    async def _delete(self, resource_id: str, arguments: dict[str, Any]) -> None:
        del arguments
        await asyncio.sleep(self._workspace.config.delete_operation_s)
        body = self._workspace.store.get(resource_id)
        if body is not None:
            await self.gone(body)
            self._workspace.store.delete(resource_id)
