"""``workspaces/onlineEndpoints``: names, keys, traffic."""

from __future__ import annotations

import asyncio
import json
import re
import secrets
import string
import time
import uuid
from typing import Any

from mlops.local.arm.access import Access
from mlops.local.arm.app import operation_headers
from mlops.local.arm.errors import ArmError, bad_request, not_found
from mlops.local.arm.managed_identities import assigned
from mlops.local.arm.operated import OperatedType
from mlops.local.arm.resources import Answer, Call
from mlops.local.arm.shapes import mapping, tags, text
from mlops.local.serving.part import Serving
from mlops.local.serving.traffic import canonical, refusal
from mlops.local.state.operations import OperationFailed, now
from mlops.local.state.store import Document
from mlops.local.state.workspace import Workspace

NAME = re.compile(r"^[a-zA-Z](?:[-a-zA-Z0-9]*[a-zA-Z0-9])?$")
MODES = {"key": "Key", "amltoken": "AMLToken", "aadtoken": "AADToken"}
TOKEN_S = 24 * 3600
TAKEN = (
    "There is already an endpoint with this name, Endpoint name needs to be unique within a region. "
    "Try some other name."
)


def legal(name: str) -> bool:
    """Whether an endpoint or a deployment may be called that."""
    return 3 <= len(name) <= 32 and bool(NAME.match(name))


def invalid(field: str, message: str, *, code: str = "InferencingClientCallFailed") -> ArmError:
    """400 as the inferencing service words it: its own validation problem as JSON inside the detail."""
    problem = {
        "errors": {field: [message]},
        "type": "https://tools.ietf.org/html/rfc9110#section-15.5.1",
        "title": "One or more validation errors occurred.",
        "status": 400,
        "traceId": f"00-{uuid.uuid4().hex}-{uuid.uuid4().hex[:16]}-01",
    }
    text = f"InferencingClient HttpRequest error, error detail: {json.dumps(problem)}"
    return bad_request("The request is invalid.", detail=(code, text))


def conflict(message: str) -> ArmError:
    """409: something else is under way, or the state does not allow it."""
    return ArmError(409, "Conflict", message, details=[("ResourceConflict", message)])


def busy(what: str, body: Document) -> ArmError:
    """The 409 of a resource on which an operation runs."""
    return conflict(f"The {what} '{body['name']}' is in state '{state(body)}'; try again later.")


def within(call: Call) -> None:
    """404 for a workspace that is not this one."""
    if not call.resource_id.lower().startswith(call.workspace.config.workspace_id.lower() + "/"):
        path = call.resource_id.split("/online", 1)[0].split("/computes", 1)[0]
        raise ArmError(404, "ResourceNotFound", f"The Resource '{path}' was not found.")


def state(body: Document) -> str:
    """The provisioning state."""
    return str(body["properties"].get("provisioningState"))


def make_key() -> str:
    """A key as long as Azure's."""
    return "".join(secrets.choice(string.ascii_letters + string.digits) for _ in range(32))


class Endpoints(OperatedType):
    """Endpoints; every change is an operation, and a GET shows the old traffic until it has succeeded."""

    kind = "workspaces/onlineEndpoints"
    operation = "endpoint"

    def __init__(self, workspace: Workspace, serving: Serving, access: Access) -> None:
        super().__init__(workspace)
        self._access = access
        self._serving = serving
        workspace.operations.register("endpoint.keys", self._keys)

    # -- requests --------------------------------------------------------------------------------------------------

    async def put(self, call: Call) -> Answer:
        """Create or replace; what the body does not say about traffic clears it, as on Azure."""
        within(call)
        store, operations = call.workspace.store, call.workspace.operations
        existing = store.get(call.resource_id)
        if existing is not None and (operations.running_on(call.resource_id) or state(existing) == "Deleting"):
            raise busy("endpoint", existing)
        body = self.complete(call, self.document(call, existing), existing)
        routing = {name: body["properties"].pop(name) for name in ("traffic", "mirrorTraffic")}
        before = existing["properties"] if existing else {"traffic": {}, "mirrorTraffic": {}}
        body["properties"].update(
            traffic=before["traffic"],
            mirrorTraffic=before["mirrorTraffic"],
            scoringUri=before.get("scoringUri"),
            swaggerUri=before.get("swaggerUri"),
            provisioningState="Updating" if existing else "Creating",
        )
        private = None
        if existing is None:
            private = {"primaryKey": make_key(), "secondaryKey": make_key(), "tokenSecret": secrets.token_hex(32)}
        with store.transaction():
            store.put(body["id"], body, private=private)
            operation = operations.start("endpoint.write", body["id"], routing, prefix="oe")
            headers = operation_headers(call, operation)
            body["properties"]["properties"]["AzureAsyncOperationUri"] = headers["Azure-AsyncOperation"]
            store.put(body["id"], body)
        self._serving.forget(body["name"])
        return Answer(201, body, headers)

    def complete(self, call: Call, body: Document, existing: Document | None) -> Document:
        """Check name, authentication and traffic; fill in what the service adds."""
        config, limits = call.workspace.config, self._serving.limits
        store = call.workspace.store
        properties = body["properties"]
        if existing is None:
            if not legal(call.name):
                raise invalid(
                    "Name",
                    f"The endpoint name '{call.name}' is not valid: it must begin with a letter, end with a "
                    "letter or a digit, hold letters, digits and dashes only, and be 3 to 32 characters long.",
                )
            if call.name.lower() in limits.taken_names:
                raise invalid("", TAKEN)
            count = len(store.children(call.collection_id))
            if count >= limits.endpoints:
                raise bad_request(
                    "The request is invalid.",
                    detail=(
                        "InferencingClientCallFailed",
                        f"Endpoint Quota reached for subscription {config.subscription}."
                        f"Current usage/limit: {count}/{limits.endpoints}",
                    ),
                )
        mode = MODES.get(str(properties.get("authMode", "")).lower())
        if mode is None:
            raise invalid(
                "AuthMode",
                f"The authentication mode '{properties.get('authMode')}' is not one of Key, AMLToken, AADToken.",
            )
        deployments = store.children(f"{body['id']}/deployments")
        traffic, mirror = properties.get("traffic") or {}, properties.get("mirrorTraffic") or {}
        why = refusal(
            traffic,
            mirror,
            deployments={one["name"]: state(one) for one in deployments},
            live=existing["properties"]["traffic"] if existing else None,
        )
        if why:
            raise invalid("Traffic", why)
        names = [one["name"] for one in deployments]
        own = (existing or {}).get("properties", {}).get("properties", {})
        body["properties"] = {
            "description": text(properties.get("description"), "description"),
            "properties": {
                **own,
                **{key: str(value) for key, value in mapping(properties.get("properties"), "properties").items()},
                "azureml.onlineendpointid": body["id"].lower(),
            },
            "authMode": mode,
            "compute": None,
            "publicNetworkAccess": text(properties.get("publicNetworkAccess"), "publicNetworkAccess") or "Enabled",
            "traffic": canonical(traffic, names),
            "mirrorTraffic": canonical(mirror, names),
        }
        body["identity"] = _identity(self._access, call, body.get("identity"), (existing or {}).get("identity"))
        body["location"] = text(body.get("location"), "location") or config.region
        body["tags"] = tags(body.get("tags"))
        body["kind"] = "Managed"
        return body

    async def patch(self, call: Call) -> Answer:
        """Change tags or identity; traffic cannot be patched, as on Azure."""
        existing = self.must(call)
        if call.workspace.operations.running_on(call.resource_id):
            raise busy("endpoint", existing)
        if "properties" in call.body:
            raise bad_request("An online endpoint's properties cannot be patched, only its tags and its identity.")
        change: Document = {key: call.body[key] for key in ("tags", "identity") if key in call.body}
        kept = {name: existing["properties"][name] for name in ("traffic", "mirrorTraffic")}

        if "tags" in change:
            change["tags"] = tags(change["tags"])
        if "identity" in change:
            change["identity"] = _identity(self._access, call, change["identity"], existing.get("identity"))

        def merge(body: Document) -> None:
            body.update(change)
            body["properties"]["provisioningState"] = "Updating"

        call.workspace.store.update(call.resource_id, merge)
        operation = call.workspace.operations.start("endpoint.write", existing["id"], kept, prefix="oe")
        return Answer(202, None, operation_headers(call, operation, status=False, result="operation"))

    async def delete(self, call: Call) -> Answer:
        """Delete with all deployments, by an operation; 204 where there is nothing."""
        store = call.workspace.store
        existing = store.get(call.resource_id)
        if existing is None:
            return Answer(204)
        if state(existing) != "Deleting" and call.workspace.operations.running_on(call.resource_id):
            raise busy("endpoint", existing)

        self.enter(call.resource_id, "Deleting")
        self._serving.forget(existing["name"])
        operation = call.workspace.operations.start("endpoint.delete", existing["id"], prefix="oe")
        return Answer(202, None, operation_headers(call, operation, result="operation"))

    async def action(self, call: Call, action: str) -> Answer:
        """``listKeys``, ``regenerateKeys``, ``token``."""
        body = self.must(call)
        mode = body["properties"]["authMode"]
        private = call.workspace.store.private(call.resource_id)
        match action.lower():
            case "listkeys":
                if mode != "Key":
                    raise bad_request(f"The endpoint '{body['name']}' does not use keys for authentication but {mode}.")
                return Answer(200, {name: private[name] for name in ("primaryKey", "secondaryKey")})
            case "regeneratekeys":
                kind = str(call.body.get("keyType", "Primary")).lower()
                if mode != "Key" or kind not in ("primary", "secondary"):
                    raise bad_request(f"The {kind} key of endpoint '{body['name']}' ({mode}) cannot be regenerated.")
                change = {"name": f"{kind}Key", "value": text(call.body.get("keyValue"), "keyValue")}
                operation = call.workspace.operations.start("endpoint.keys", body["id"], change, prefix="oe")
                return Answer(202, None, operation_headers(call, operation, status=False, result="operation"))
            case "token":
                if mode != "AMLToken":
                    raise bad_request(f"The endpoint '{body['name']}' does not use tokens of its own but {mode}.")
                return Answer(200, _token(call, body, private["tokenSecret"]))
        return await super().action(call, action)

    def missing(self, call: Call) -> ArmError:
        """The 404 of an endpoint, in the words of the inferencing service."""
        del call
        return not_found(detail=("InferencingClientCallFailed", '{"title":"Not Found"}'))

    # -- operations ------------------------------------------------------------------------------------------------

    def _failed(self, resource_id: str) -> None:
        super()._failed(resource_id)
        self._serving.forget(resource_id.rsplit("/", 1)[1])

    async def _write(self, resource_id: str, arguments: dict[str, Any]) -> None:
        await asyncio.sleep(self._workspace.config.endpoint_operation_s)
        name = resource_id.rsplit("/", 1)[1]
        host = f"https://{name.lower()}.{self._workspace.config.region}.inference.ml.azure.com"

        def apply(body: Document) -> None:
            if state(body) == "Deleting":
                return
            body["properties"].update(
                arguments, scoringUri=f"{host}/score", swaggerUri=f"{host}/swagger.json", provisioningState="Succeeded"
            )
            body["systemData"]["lastModifiedAt"] = now()

        if self._workspace.store.update(resource_id, apply) is None:
            raise OperationFailed("ResourceNotFound", f"The endpoint '{name}' was deleted.")
        self._serving.forget(name)

    async def _delete(self, resource_id: str, arguments: dict[str, Any]) -> None:
        del arguments
        store = self._workspace.store
        self._serving.forget(resource_id.rsplit("/", 1)[1])
        deployments = [body["id"] for body in store.children(f"{resource_id}/deployments")]
        await asyncio.gather(
            asyncio.sleep(self._workspace.config.delete_operation_s), *map(self._serving.fleet.retire, deployments)
        )
        store.delete(resource_id)
        self._serving.forget(resource_id.rsplit("/", 1)[1])

    async def _keys(self, resource_id: str, arguments: dict[str, Any]) -> None:
        await asyncio.sleep(self._workspace.config.endpoint_operation_s)
        name, value = arguments["name"], arguments["value"]
        if not value or value == self._workspace.store.private(resource_id).get(name):
            value = make_key()  # the Python client sends the key that it wants replaced
        self._workspace.store.update_private(resource_id, **{name: value})
        self._serving.forget(resource_id.rsplit("/", 1)[1])


def _identity(access: Access, call: Call, asked: Any, before: Any) -> Document:
    identity = mapping(asked, "identity") or dict(before or {})
    kind = text(identity.get("type"), "identity.type") or "SystemAssigned"
    identity["type"] = kind
    if "systemassigned" in kind.replace(",", "").lower():
        identity["principalId"] = (before or {}).get("principalId") or str(uuid.uuid4())
        identity["tenantId"] = call.workspace.config.tenant
    users = identity.get("userAssignedIdentities")
    if isinstance(users, dict):
        had = {key.lower(): value for key, value in ((before or {}).get("userAssignedIdentities") or {}).items()}
        identity["userAssignedIdentities"] = {key: had.get(key.lower()) or assigned(access, call, key) for key in users}
    return identity


def _token(call: Call, body: Document, secret: str) -> Document:
    import jwt

    config = call.workspace.config
    begin = int(time.time())
    claims = {
        "canRefresh": "False",
        "workspaceId": config.workspace_guid,
        "tid": config.tenant,
        "oid": call.caller,
        "actions": "[]",
        "endpointName": body["name"],
        "serviceId": body["id"],
        "exp": begin + TOKEN_S,
        "iss": "azureml",
        "aud": "azureml",
    }
    return {
        "accessToken": jwt.encode(claims, secret, algorithm="HS256"),
        "tokenType": "Bearer",
        "expiryTimeUtc": begin + TOKEN_S,
        "refreshAfterTimeUtc": begin + TOKEN_S // 2,
    }
