"""Role definitions, role assignments and permissions: resources that extend any scope."""

from __future__ import annotations

import re
import time

from mlops.local.arm.access import Access
from mlops.local.arm.errors import ArmError, bad_request
from mlops.local.arm.principals import Principals
from mlops.local.arm.resources import Answer, Call, ResourceType
from mlops.local.arm.roles import BUILT_IN, BY_ID, Role
from mlops.local.arm.shapes import mapping, text
from mlops.local.state.config import Config
from mlops.local.state.operations import now
from mlops.local.state.store import Document, Store
from mlops.local.state.workspace import Workspace

AUTHORIZATION = "Microsoft.Authorization"
GUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
ROLE_NAME = re.compile(r"roleName eq '(?P<name>[^']*)'", re.IGNORECASE)
PRINCIPAL = re.compile(r"principalId eq '?(?P<id>[^' )]+)'?|assignedTo\('(?P<to>[^']+)'\)", re.IGNORECASE)


def scope_of(resource_id: str) -> str:
    """What an assignment or a definition extends; ``/`` for the tenant."""
    at = resource_id.lower().rfind("/providers/microsoft.authorization/")
    return resource_id[:at] or "/"


def assign(store: Store, config: Config, *, role: Role, principal: str, scope: str, name: str) -> Document:
    """Write an assignment that nobody asked Azure for: those that a subscription begins with."""
    body = _document(config, f"{scope}/providers/{AUTHORIZATION}/roleAssignments/{name}", role, principal, "local")
    store.put(body["id"], body)
    return body


class RoleDefinitions(ResourceType):
    """The built-in roles, the same at every scope."""

    namespace = AUTHORIZATION
    kind = "roleDefinitions"

    async def get(self, call: Call) -> Answer:
        """One by its id."""
        role = BY_ID.get(call.name.lower())
        if role is None:
            message = f"The specified role definition with ID '{call.name}' does not exist."
            raise ArmError(404, "RoleDefinitionDoesNotExist", message)
        return Answer(200, role.shown(_subscription(call, scope_of(call.resource_id))))

    async def list(self, call: Call) -> Answer:
        """All, or the one of a name (``$filter=roleName eq 'Reader'``)."""
        name_filter = ROLE_NAME.search(call.query.get("$filter", ""))
        base = _subscription(call, scope_of(call.resource_id + "/"))
        roles = [role for role in BUILT_IN if name_filter is None or role.name.lower() == name_filter["name"].lower()]
        return Answer(200, {"value": [role.shown(base) for role in roles]})

    async def put(self, call: Call) -> Answer:
        """Custom roles are not kept here."""
        raise bad_request(f"The local workspace has built-in roles only; '{call.name}' cannot be written.")

    delete = put
    patch = put


class RoleAssignments(ResourceType):
    """Who has which role where."""

    namespace = AUTHORIZATION
    kind = "roleAssignments"

    def __init__(self, workspace: Workspace, access: Access, principals: Principals) -> None:
        self._workspace = workspace
        self._access = access
        self._principals = principals

    async def put(self, call: Call) -> Answer:
        """Assign; role, principal and scope of an assignment never change."""
        if not GUID.fullmatch(call.name):
            message = f"The role assignment ID '{call.name}' is not valid. The role assignment ID must be a GUID."
            raise ArmError(400, "InvalidRoleAssignmentId", message)
        given = mapping(call.body.get("properties"), "properties")
        definition = text(given.get("roleDefinitionId"), "roleDefinitionId") or ""
        principal = text(given.get("principalId"), "principalId") or ""
        role = BY_ID.get(definition.rsplit("/", 1)[-1].lower())
        if role is None:
            message = f"The specified role definition with ID '{definition.rsplit('/', 1)[-1]}' does not exist."
            raise ArmError(404, "RoleDefinitionDoesNotExist", message)
        if not self._principals.known(principal, at=time.time()):
            message = (
                f"Principal {principal.replace('-', '')} does not exist in the directory "
                f"{call.workspace.config.tenant}. Check that you have the correct principal ID. If you are creating "
                "this principal and then immediately assigning a role, this error might be related to a replication "
                "delay. In this case, set the role assignment principalType property to a value, such as "
                "ServicePrincipal, User, or Group."
            )
            raise ArmError(400, "PrincipalNotFound", message)
        kind = text(given.get("principalType"), "principalType")
        if kind not in (None, "ServicePrincipal"):
            message = f"The PrincipalId '{principal}' has type 'ServicePrincipal', which is different from '{kind}'."
            raise ArmError(400, "UnmatchedPrincipalType", message)
        scope = scope_of(call.resource_id)
        for other in self._access.assignments():
            properties = other["properties"]
            same = (properties["scope"].lower(), properties["principalId"], properties["roleDefinitionId"][-36:])
            if other["name"].lower() == call.name.lower() and other["id"].lower() != call.resource_id.lower():
                message = "Tenant ID, application ID, principal ID, and scope are not allowed to be updated."
                raise ArmError(409, "RoleAssignmentUpdateNotPermitted", message)
            if same == (scope.lower(), principal, role.id):
                raise ArmError(409, "RoleAssignmentExists", "The role assignment already exists.")
        existing = call.workspace.store.get(call.resource_id)
        if existing is not None:
            message = "Tenant ID, application ID, principal ID, and scope are not allowed to be updated."
            raise ArmError(409, "RoleAssignmentUpdateNotPermitted", message)
        body = _document(call.workspace.config, call.resource_id, role, principal, call.oid)
        body["properties"]["description"] = given.get("description")
        call.workspace.store.put(body["id"], body)
        return Answer(201, body)

    async def patch(self, call: Call) -> Answer:
        """Nothing of one can be changed."""
        raise ArmError(405, "MethodNotAllowed", f"A role assignment cannot be patched: '{call.name}'.")

    async def list(self, call: Call) -> Answer:
        """Those above, at and below a scope; ``atScope()`` leaves out what is below, others choose a principal."""
        principal_filter = call.query.get("$filter", "")
        scope = scope_of(call.resource_id + "/").lower()
        assignments = []
        chosen = PRINCIPAL.search(principal_filter)
        for body in self._access.assignments():
            its = body["properties"]["scope"].lower()
            above = its == "/" or scope == its or scope.startswith(its + "/")
            below = its.startswith(scope.rstrip("/") + "/")
            if not (above or (below and "atscope()" not in principal_filter.lower())):
                continue
            if chosen and body["properties"]["principalId"] != (chosen["id"] or chosen["to"]):
                continue
            assignments.append(body)
        return Answer(200, {"value": assignments})

    async def delete(self, call: Call) -> Answer:
        """Take it back; the answer shows what it was, and is 204 where there is nothing."""
        body = call.workspace.store.get(call.resource_id)
        if body is None:
            return Answer(204)
        call.workspace.store.delete(call.resource_id)
        return Answer(200, body)

    def missing(self, call: Call) -> ArmError:
        """Azure's 404."""
        return ArmError(404, "RoleAssignmentNotFound", f"The role assignment '{call.name}' is not found.")


class Permissions(ResourceType):
    """What the caller may do at a scope: one entry for each role that reaches it."""

    namespace = AUTHORIZATION
    kind = "permissions"

    def __init__(self, access: Access) -> None:
        self._access = access

    async def list(self, call: Call) -> Answer:
        """The roles' patterns."""
        grants = self._access.grants(call.oid, scope_of(call.resource_id + "/"))
        return Answer(200, {"value": [grant.role.permissions for grant in grants]})


class DenyAssignments(ResourceType):
    """There are none."""

    namespace = AUTHORIZATION
    kind = "denyAssignments"

    async def list(self, call: Call) -> Answer:
        """Nothing."""
        del call
        return Answer(200, {"value": []})


def _subscription(call: Call, scope: str) -> str:
    return "" if scope == "/" else f"/subscriptions/{call.workspace.config.subscription}"


def _document(config: Config, resource_id: str, role: Role, principal: str, caller: str) -> Document:
    made = now()
    definition = f"/subscriptions/{config.subscription}/providers/{AUTHORIZATION}/roleDefinitions/{role.id}"
    return {
        "id": resource_id,
        "name": resource_id.rsplit("/", 1)[1],
        "type": f"{AUTHORIZATION}/roleAssignments",
        "properties": {
            "roleDefinitionId": definition,
            "principalId": principal,
            "principalType": "ServicePrincipal",
            "scope": scope_of(resource_id),
            "condition": None,
            "conditionVersion": None,
            "createdOn": made,
            "updatedOn": made,
            "createdBy": caller,
            "updatedBy": caller,
            "delegatedManagedIdentityResourceId": None,
            "description": None,
        },
    }
