"""How a request on a resource is parsed and answered; the generic behaviour that types build on.

A type of resource is a subclass of :class:`ResourceType` whose ``kind`` is its type path below the provider, such as
``workspaces/onlineEndpoints/deployments``; it overrides the hooks that it needs. A type of which nothing special is
known is stored and given back, which is what most of ARM does.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

from mlops.local.arm.errors import ArmError, bad_request, not_found
from mlops.local.state.operations import now
from mlops.local.state.store import Document
from mlops.local.state.workspace import Workspace

PAGE = 100


@dataclass
class Answer:
    """An HTTP answer of the control plane; a None body with status 202 is the JSON literal null, with 204 nothing."""

    status: int
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class Call:
    """One request: the id it names (without query), what it carries and who sent it."""

    workspace: Workspace
    method: str
    resource_id: str
    query: dict[str, str]
    body: Document
    caller: str
    host: str = "management.azure.com"
    oid: str = ""
    """The caller's object id, to which roles are assigned."""
    path_prefix: str = ""
    """What stands before the id in this host's urls (the registry's data plane has one)."""

    @property
    def api_version(self) -> str:
        """The version that the client asked for; echoed, never judged."""
        return self.query.get("api-version", "2024-10-01")

    @property
    def name(self) -> str:
        """Last segment of the id."""
        return self.resource_id.rstrip("/").rsplit("/", 1)[1]

    @property
    def parent_id(self) -> str:
        """The id of the resource that this one belongs to."""
        return self.resource_id.rstrip("/").rsplit("/", 2)[0]

    @property
    def collection_id(self) -> str:
        """The id without its last segment."""
        return self.resource_id.rstrip("/").rsplit("/", 1)[0]

    def url(self, path: str | None = None) -> str:
        """The full url of an id (this request's by default)."""
        return f"https://{self.host}{self.path_prefix}{path or self.resource_id}?api-version={self.api_version}"


class ResourceType:
    """Generic PUT, PATCH, GET, list, DELETE; synchronous, as jobs, models and components are."""

    namespace = "Microsoft.MachineLearningServices"
    kind = ""
    """Type path below the namespace, compared without case."""

    @property
    def full_kind(self) -> str:
        """The type with its namespace, as a resource's ``type`` names it."""
        return f"{self.namespace}/{self.kind}"

    # -- hooks -----------------------------------------------------------------------------------------------------

    def complete(self, call: Call, body: Document, existing: Document | None) -> Document:
        """Validate and fill in what the service adds; raises :class:`ArmError`."""
        del call, existing
        return body

    def shown(self, call: Call, body: Document) -> Document:
        """What a GET shows of a stored document."""
        del call
        return body

    async def written(self, call: Call, body: Document, existing: Document | None) -> None:
        """After a document was written."""

    async def gone(self, body: Document) -> None:
        """Before a resource is deleted with the group that it lies in."""

    async def action(self, call: Call, action: str) -> Answer:
        """POST ``…/{action}``."""
        raise not_found(f"The action '{action}' is not known on '{call.resource_id}'.")

    def selected(self, call: Call, body: Document) -> bool:
        """Whether a list shows this document (filters of the query)."""
        view = call.query.get("listViewType", "ActiveOnly")
        archived = bool(body.get("properties", {}).get("isArchived"))
        return view == "All" or archived == (view == "ArchivedOnly")

    # -- verbs -----------------------------------------------------------------------------------------------------

    def document(self, call: Call, existing: Document | None) -> Document:
        """The request's body as a resource with id, name, type and system data."""
        body = copy.deepcopy(call.body)
        body.setdefault("properties", {})
        if not isinstance(body["properties"], dict):
            raise bad_request("The request body must hold an object 'properties'.")
        body["id"] = existing["id"] if existing else call.resource_id
        body["name"] = existing["name"] if existing else call.name
        body["type"] = self.full_kind
        made = (existing or {}).get("systemData", {})
        body["systemData"] = {
            "createdAt": made.get("createdAt", now()),
            "createdBy": made.get("createdBy", call.caller),
            "createdByType": "Application",
            "lastModifiedAt": now(),
            "lastModifiedBy": call.caller,
            "lastModifiedByType": "Application",
        }
        return body

    async def put(self, call: Call) -> Answer:
        """Create or replace."""
        store = call.workspace.store
        existing = store.get(call.resource_id)
        body = self.complete(call, self.document(call, existing), existing)
        store.put(call.resource_id, body)
        await self.written(call, body, existing)
        shown = self.shown(call, store.get(call.resource_id) or body)
        return Answer(200 if existing else 201, shown, {"Location": call.url()})

    async def patch(self, call: Call) -> Answer:
        """Merge into an existing document (RFC 7396, as ARM does)."""
        existing = self.must(call)
        call.body = merge(existing, {key: call.body[key] for key in call.body if key not in ("id", "name", "type")})
        await self.put(call)
        return Answer(200, self.shown(call, self.must(call)))

    async def get(self, call: Call) -> Answer:
        """One resource."""
        return Answer(200, self.shown(call, self.must(call)))

    async def list(self, call: Call) -> Answer:
        """A collection (``call.resource_id`` is the collection's id), newest first where asked, in pages."""
        documents = [body for body in call.workspace.store.children(call.resource_id) if self.selected(call, body)]
        if "desc" in call.query.get("$orderBy", call.query.get("orderBy", "")).lower():
            documents.reverse()
        return page(self, call, documents, size=None)

    async def delete(self, call: Call) -> Answer:
        """Delete with everything below; 204 where there is nothing."""
        return Answer(200 if call.workspace.store.delete(call.resource_id) else 204)

    def must(self, call: Call) -> Document:
        """The stored document, or Azure's 404."""
        document = call.workspace.store.get(call.resource_id)
        if document is None:
            raise self.missing(call)
        return document

    def missing(self, call: Call) -> ArmError:
        """The 404 for this type."""
        return not_found(
            "The specified resource was not found.", detail=("ResourceNotFound", f"'{call.name}' was not found.")
        )


def page(kind: ResourceType, call: Call, documents: list[Document], *, size: int | None = PAGE) -> Answer:
    """One page of a list, with the link to the next; without a size all of it unless the query asks for pages."""
    if "desc" in call.query.get("$orderBy", call.query.get("orderBy", "")).lower():
        documents = documents[::-1]
    top = _number(call.query.get("$top"))
    skip = _number(call.query.get("$skip")) or 0
    size = _number(call.query.get("count")) or _number(call.query.get("$maxpagesize")) or size or len(documents) or 1
    part = documents[skip : skip + (top or size)]
    body: Document = {"value": [kind.shown(call, item) for item in part]}
    if top is None and skip + size < len(documents):
        query = {**call.query, "api-version": call.api_version, "$skip": str(skip + size)}
        body["nextLink"] = f"{call.url().partition('?')[0]}?{urlencode(query)}"
    return Answer(200, body)


def _number(value: str | None) -> int | None:
    if value in (None, ""):
        return None
    try:
        number = int(str(value))
    except ValueError:
        raise bad_request(f"'{value}' is not a number.") from None
    return number if number >= 0 else None


def merge(target: Document, change: Document) -> Document:
    """JSON merge patch (RFC 7396)."""
    merged = copy.deepcopy(target)
    for key, value in change.items():
        if value is None:
            merged.pop(key, None)
        elif isinstance(value, dict) and isinstance(merged.get(key), dict):
            merged[key] = merge(merged[key], value)
        else:
            merged[key] = copy.deepcopy(value)
    return merged
