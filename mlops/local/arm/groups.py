"""Resource groups, what lies in them, and the tenant, subscription and region around them."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable
from typing import Any

from mlops.local.arm.access import Access
from mlops.local.arm.errors import ArmError, bad_request
from mlops.local.arm.operations import location_headers
from mlops.local.arm.resources import Answer, Call, ResourceType, page
from mlops.local.arm.shapes import tags, text
from mlops.local.arm.target import RESOURCES
from mlops.local.state.config import Config
from mlops.local.state.store import Document, Store
from mlops.local.state.workspace import Workspace

NAME = re.compile(r"[-\w._()]{0,89}[-\w_()]")
TAG = re.compile(r"tagName eq '(?P<name>[^']*)'(?: and tagValue eq '(?P<value>[^']*)')?", re.IGNORECASE)
TYPE = re.compile(r"resourceType eq '(?P<type>[^']*)'", re.IGNORECASE)
TOP_LEVEL = re.compile(r"/resourcegroups/[^/]+/providers/[^/]+/[^/]+/[^/]+$", re.IGNORECASE)


def group_document(config: Config, name: str, location: str, labels: dict[str, str]) -> Document:
    """A group as it is shown."""
    return {
        "id": f"/subscriptions/{config.subscription}/resourceGroups/{name}",
        "name": name,
        "type": "Microsoft.Resources/resourceGroups",
        "location": location,
        "tags": labels,
        "properties": {"provisioningState": "Succeeded"},
    }


def contents(store: Store, group_id: str) -> list[Document]:
    """The resources of a group, without what belongs to them."""
    return [body for body in store.below(group_id) if TOP_LEVEL.search(body["id"])]


class Tenants(ResourceType):
    """The one tenant."""

    namespace = RESOURCES
    kind = "tenants"

    async def list(self, call: Call) -> Answer:
        """Its id."""
        tenant = call.workspace.config.tenant
        return Answer(200, {"value": [{"id": f"/tenants/{tenant}", "tenantId": tenant}]})


class Subscriptions(ResourceType):
    """The one subscription."""

    namespace = RESOURCES
    kind = "subscriptions"

    async def get(self, call: Call) -> Answer:
        """Its description."""
        return Answer(200, _subscription(call.workspace.config))

    async def list(self, call: Call) -> Answer:
        """The same in a list."""
        return Answer(200, {"value": [_subscription(call.workspace.config)]})


class Locations(ResourceType):
    """The one region."""

    namespace = RESOURCES
    kind = "subscriptions/locations"

    async def list(self, call: Call) -> Answer:
        """Its name."""
        region = call.workspace.config.region
        return Answer(200, {"value": [{"id": call.resource_id + "/" + region, "name": region, "displayName": region}]})


class Groups(ResourceType):
    """``resourceGroups``: made and changed at once, deleted with all that they hold by an operation."""

    namespace = RESOURCES
    kind = "subscriptions/resourceGroups"

    def __init__(self, workspace: Workspace, access: Access, contained: Iterable[ResourceType]) -> None:
        self._workspace = workspace
        self._access = access
        self._contained = {kind.full_kind.lower(): kind for kind in contained}
        workspace.operations.register("group.delete", self._delete)

    async def put(self, call: Call) -> Answer:
        """Create, or replace the tags; the region stays."""
        existing = call.workspace.store.get(call.resource_id)
        location = text(call.body.get("location"), "location")
        if not location:
            raise ArmError(400, "LocationRequired", "The location property is required for this definition.")
        name = existing["name"] if existing else call.name
        if not NAME.fullmatch(name):
            raise bad_request(f"The provided resource group name '{name}' has invalid characters, or ends in '.'.")
        region = location.replace(" ", "").lower()
        if existing and existing["location"] != region:
            message = (
                f"Invalid resource group location '{location}'. The Resource group already exists in location "
                f"'{existing['location']}'."
            )
            raise ArmError(409, "InvalidResourceGroupLocation", message)
        if existing and existing["properties"]["provisioningState"] == "Deleting":
            raise _deleting(name)
        body = group_document(call.workspace.config, name, region, tags(call.body.get("tags")))
        call.workspace.store.put(body["id"], body)
        return Answer(200 if existing else 201, body)

    async def patch(self, call: Call) -> Answer:
        """Replace the tags."""
        self.must(call)
        given = call.body

        def change(body: Document) -> None:
            if "tags" in given:
                body["tags"] = tags(given["tags"])

        call.workspace.store.update(call.resource_id, change)
        return Answer(200, self.must(call))

    async def get(self, call: Call) -> Answer:
        """One; a HEAD says with its status alone whether it is there."""
        body = self.must(call)
        return Answer(204) if call.method == "HEAD" else Answer(200, body)

    async def list(self, call: Call) -> Answer:
        """Those that the caller may read, by tag where that is asked for."""
        store = call.workspace.store
        groups = [
            body
            for body in store.children(call.resource_id)
            if _tagged(call, body) and visible(self._access, call, body)
        ]
        return page(self, call, groups, size=None)

    async def delete(self, call: Call) -> Answer:
        """202 and where to look; what lies in the group goes with it."""

        def mark(body: Document) -> None:
            body["properties"]["provisioningState"] = "Deleting"

        body = call.workspace.store.update(call.resource_id, mark)
        if body is None:
            raise self.missing(call)
        operation = call.workspace.operations.start("group.delete", body["id"], prefix="")
        return Answer(202, None, location_headers(call, operation))

    async def action(self, call: Call, action: str) -> Answer:  # noqa: ARG002
        """None is served."""
        raise ArmError(404, "NotFound", f"The action '{action}' of a resource group is not served here.")

    def missing(self, call: Call) -> ArmError:
        """ARM's own 404."""
        return ArmError(404, "ResourceGroupNotFound", f"Resource group '{call.name}' could not be found.")

    async def _delete(self, group_id: str, arguments: dict[str, Any]) -> None:
        del arguments
        await asyncio.sleep(self._workspace.config.delete_operation_s)
        for body in contents(self._workspace.store, group_id):
            kind = self._contained.get(str(body["type"]).lower())
            if kind is not None:
                await kind.gone(body)
        self._workspace.store.delete(group_id)


class GroupResources(ResourceType):
    """``resourceGroups/{group}/resources`` and ``subscriptions/{id}/resources``: lists over all types."""

    namespace = RESOURCES

    def __init__(self, access: Access, kind: str) -> None:
        self._access = access
        self.kind = kind

    async def list(self, call: Call) -> Answer:
        """What the caller may read, filtered by tag and type."""
        store, within = call.workspace.store, call.resource_id.rsplit("/", 1)[0]
        resources = [
            body for body in contents(store, within) if _tagged(call, body) and visible(self._access, call, body)
        ]
        type_filter = TYPE.search(call.query.get("$filter", ""))
        if type_filter:
            resources = [body for body in resources if body["type"].lower() == type_filter["type"].lower()]
        kept = ("id", "name", "type", "kind", "location", "tags", "sku", "identity", "systemData")
        return page(self, call, [{key: body[key] for key in kept if key in body} for body in resources], size=None)


def visible(access: Access, call: Call, body: Document) -> bool:
    """Whether the caller may read a resource: lists leave the others out."""
    return access.allows(call.oid, f"{_action(body)}/read", body["id"])


def _action(body: Document) -> str:
    return "Microsoft.Resources/subscriptions/resourceGroups" if "/providers/" not in body["id"] else str(body["type"])


def _tagged(call: Call, body: Document) -> bool:
    tag_filter = TAG.search(call.query.get("$filter", ""))
    if tag_filter is None:
        return True
    tags_by_name = {name.lower(): value for name, value in (body.get("tags") or {}).items()}
    value = tags_by_name.get(tag_filter["name"].lower())
    return value is not None and tag_filter["value"] in (None, value)


def _deleting(name: str) -> ArmError:
    message = f"The resource group '{name}' is in deprovisioning state and cannot perform this operation."
    return ArmError(409, "ResourceGroupBeingDeleted", message)


def _subscription(config: Config) -> Document:
    return {
        "id": f"/subscriptions/{config.subscription}",
        "subscriptionId": config.subscription,
        "tenantId": config.tenant,
        "displayName": "local workspace",
        "state": "Enabled",
        "authorizationSource": "RoleBased",
        "subscriptionPolicies": {"locationPlacementId": "Public_2014-09-01", "spendingLimit": "Off"},
    }
