"""Versioned assets: a container by name, versions below it. What models, data, codes, … share."""

from __future__ import annotations

import asyncio
import re

from mlops.local.arm.errors import ArmError, bad_request, not_found
from mlops.local.arm.resources import Answer, Call, ResourceType, page
from mlops.local.jobs.locations import Unresolved
from mlops.local.jobs.part import JobsPart
from mlops.local.registry.part import RegistryPart
from mlops.local.state.operations import now
from mlops.local.state.store import Document

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.\-]{0,254}")


class ContainerType(ResourceType):
    """``…/models``: shows the latest and the next version."""

    def __init__(self, scope: str, family: str) -> None:
        self.kind = f"{scope}/{family}"

    def complete(self, call: Call, body: Document, existing: Document | None) -> Document:
        """Tags and description merge into what is there."""
        check_name(call.name)
        properties = {**((existing or {}).get("properties") or {}), **body["properties"]}
        properties.setdefault("tags", {})
        properties.setdefault("properties", {})
        properties.setdefault("isArchived", False)
        body["properties"] = properties
        return body

    def shown(self, call: Call, body: Document) -> Document:
        """With ``latestVersion`` (made last, not archived) and ``nextVersion``."""
        versions = call.workspace.store.children(f"{body['id']}/versions")
        live = [item["name"] for item in versions if not item["properties"].get("isArchived")]
        numbers = [int(item["name"]) for item in versions if item["name"].isdigit()]
        properties = {
            **body["properties"],
            "latestVersion": live[-1] if live else None,
            "nextVersion": str(max(numbers, default=0) + 1),
        }
        return shown_id(call, {**body, "properties": properties})

    async def list(self, call: Call) -> Answer:
        """In pages; anonymous assets are not listed."""
        children = call.workspace.store.children(call.resource_id)
        return page(self, call, [b for b in children if self.selected(call, b) and not b.get("anonymous")])


class VersionType(ResourceType):
    """``…/models/versions``: immutable but for tags, description, properties and the archive flag."""

    family = ""
    path_property: str | None = None
    """The property that must not change."""

    def __init__(self, scope: str, jobs: JobsPart, registry: RegistryPart) -> None:
        self.jobs = jobs
        self.registry = registry
        self.kind = f"{scope}/{self.family}/versions"

    def complete(self, call: Call, body: Document, existing: Document | None) -> Document:
        """Check the name and what must stay; fill in the defaults."""
        check_name(call.parent_id.rsplit("/", 1)[1])
        check_name(call.name)
        properties = body["properties"]
        for key, default in (("description", None), ("tags", {}), ("properties", {})):
            properties[key] = properties.get(key) or default
        properties["isArchived"] = bool(properties.get("isArchived", False))
        properties["isAnonymous"] = bool(properties.get("isAnonymous", False))
        properties["provisioningState"] = "Succeeded"
        self.settle(call, body, existing)
        return body

    def settle(self, call: Call, body: Document, existing: Document | None) -> None:  # noqa: ARG002
        """What a family adds or checks; the base refuses a changed path."""
        key = self.path_property
        if key is None or existing is None:
            return
        old, new = existing["properties"].get(key), body["properties"].get(key)
        body["properties"][key] = new or old
        if new and not self.same_path(str(old), str(new)):
            raise ArmError(400, "UserError", "Asset paths cannot be updated.")

    def same_path(self, old: str, new: str) -> bool:
        """Whether two uris mean one place."""
        try:
            return old == new or self.jobs.locations.path(old) == self.jobs.locations.path(new)
        except Unresolved:
            return False

    def shown(self, call: Call, body: Document) -> Document:
        """Registries have ids of their own."""
        return shown_id(call, body)

    def selected(self, call: Call, body: Document) -> bool:
        """The archive view, and the tags that the query names (``a``, ``a=1``, by commas)."""
        tags = body["properties"].get("tags") or {}
        for tag in filter(None, call.query.get("tags", call.query.get("$tags", "")).split(",")):
            key, equals, value = tag.partition("=")
            if key not in tags or (equals and str(tags[key]) != value):
                return False
        return super().selected(call, body)

    async def put(self, call: Call) -> Answer:
        """Create or replace, the container with it."""
        container = call.parent_id
        store = call.workspace.store
        existing = store.get(call.resource_id)
        body = self.complete(call, self.document(call, existing), existing)
        with store.transaction():
            if store.get(container) is None:
                store.put(container, self.container(call, anonymous=bool(body["properties"]["isAnonymous"])))
            store.put(body["id"], body)
        await self.written(call, body, existing)
        return Answer(200 if existing else 201, self.shown(call, body), {"Location": call.url(body["id"])})

    def container(self, call: Call, *, anonymous: bool) -> Document:
        """The document of a new container."""
        made = now()
        return {
            "id": call.parent_id,
            "name": call.parent_id.rsplit("/", 1)[1],
            "type": f"Microsoft.MachineLearningServices/{self.kind.removesuffix('/versions')}",
            "properties": {"description": None, "tags": {}, "properties": {}, "isArchived": False},
            "systemData": {
                "createdAt": made,
                "createdBy": call.caller,
                "createdByType": "Application",
                "lastModifiedAt": made,
            },
            **({"anonymous": True} if anonymous else {}),
        }

    async def get(self, call: Call) -> Answer:
        """One version; the registry first looks whether the checkout changed."""
        await self._fresh()
        return await super().get(call)

    async def _fresh(self) -> None:
        if self.kind.startswith("registries/"):
            await asyncio.to_thread(self.registry.refresh)

    async def list(self, call: Call) -> Answer:
        """In pages, ``createdtime desc`` where asked."""
        await self._fresh()
        versions = [body for body in call.workspace.store.children(call.resource_id) if self.selected(call, body)]
        return page(self, call, versions)

    def missing(self, call: Call) -> ArmError:
        """The 404 of a version."""
        name = call.parent_id.rsplit("/", 1)[1]
        kind = self.family.rstrip("s")
        return not_found(f"The specified resource was not found: {kind} '{name}' version '{call.name}'.")


def check_name(name: str) -> None:
    """Refuse names that Azure refuses."""
    if not NAME.fullmatch(name):
        raise bad_request(f"'{name}' is not a valid name: letters, digits, '-', '_' and '.', at most 255.")


def shown_id(call: Call, body: Document) -> Document:
    """On a registry's data plane the id is ``azureml://registries/…``."""
    shown = {key: value for key, value in body.items() if key != "anonymous"}
    registry = re.search(r"/registries/([^/]+)/(.+)$", body["id"], re.IGNORECASE)
    if registry and call.path_prefix:
        shown["id"] = f"azureml://registries/{registry[1]}/{registry[2]}"
    return shown
