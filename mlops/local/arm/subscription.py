"""The subscription: what guards it, and what it begins with."""

from __future__ import annotations

import uuid
from collections.abc import Sequence

from mlops.local.arm import authorization, groups, providers
from mlops.local.arm.access import Access
from mlops.local.arm.errors import ArmError, bad_request
from mlops.local.arm.group_resource import GroupResource
from mlops.local.arm.resources import Call
from mlops.local.arm.roles import Role
from mlops.local.arm.target import RESOURCES, Target
from mlops.local.state.store import Document
from mlops.local.state.workspace import Workspace

SEED = uuid.UUID("6d6c6f70-0000-4000-8000-000000000000")
FILTERED = ("subscriptions", "subscriptions/resourcegroups", "subscriptions/resources", "tenants")
"""Lists that leave out what the caller may not read, instead of refusing."""


class Subscription:
    """Decides what a caller may do in the subscription, and seeds it."""

    def __init__(self, workspace: Workspace, access: Access, login: str, dependencies: Sequence[GroupResource]) -> None:
        self._workspace = workspace
        self._access = access
        self._login = login
        self._dependencies = dependencies

    # -- guards ----------------------------------------------------------------------------------------------------

    def authorize(self, call: Call, target: Target) -> None:
        """Refuse what lies in no subscription of ours, and what the caller's roles do not permit."""
        config = self._workspace.config
        if target.subscription is not None and target.subscription.lower() != config.subscription.lower():
            message = f"The subscription '{target.subscription}' could not be found."
            raise ArmError(404, "SubscriptionNotFound", message)
        kind = target.kind.lower()
        if call.method in ("GET", "HEAD") and target.is_collection and kind in FILTERED:
            return
        if kind == "subscriptions" and call.method == "GET" and self._access.grants(call.oid):
            return  # whoever has a role anywhere in a subscription may see that it is there
        if kind in ("permissions", "roledefinitions") and target.namespace.lower() == "microsoft.authorization":
            return
        self._access.need(call.oid, call.caller, *action_and_scope(call.method, target))

    def guard(self, call: Call, target: Target) -> None:
        """Refuse what needs a group or a provider that is not there."""
        store, config = self._workspace.store, self._workspace.config
        below = target.scope != "" and target.group is not None
        if below and store.get("/".join(target.path.split("/")[:5])) is None:
            raise ArmError(404, "ResourceGroupNotFound", f"Resource group '{target.group}' could not be found.")
        if target.subscription and target.namespace != RESOURCES:
            state = providers.state(store, config.subscription, target.namespace)
            reads = call.method in ("GET", "HEAD") and "locations" not in f"{target.scope}/{target.kind}".lower()
            if state == "NotRegistered" and not reads:
                providers.need(store, config.subscription, target.namespace)
        if target.namespace.lower() == "microsoft.machinelearningservices" and call.method in ("PUT", "POST", "PATCH"):
            self._runs_here(target)
        if call.method == "PUT" and below and store.get(target.path) is None:
            group = store.get("/".join(target.path.split("/")[:5])) or {}
            if group["properties"]["provisioningState"] == "Deleting":
                message = f"The resource group '{target.group}' is in deprovisioning state and cannot perform this."
                raise ArmError(409, "ResourceGroupBeingDeleted", message)
        parent = ""
        if target.namespace.lower() == authorization.AUTHORIZATION.lower():
            parent = target.scope.partition("/blobServices/")[0]
        if len(target.segments) > 2 and target.namespace != RESOURCES and target.segments[0].lower() != "locations":
            names = target.segments[: (len(target.segments) - 1) // 2 * 2]
            parent = f"{target.scope}/providers/{target.namespace}/{'/'.join(names[:2])}"
        if parent.count("/") >= 8 and "/locations/" not in parent.lower() and store.get(parent) is None:
            raise _no_resource(parent)

    def _runs_here(self, target: Target) -> None:
        """Jobs, endpoints and their like live in one workspace; the others hold documents and connections."""
        main = self._workspace.config.workspace_id
        kind = target.kind.lower()
        own = kind.startswith("workspaces/connections") or (target.is_collection and kind.count("/") == 1)
        if kind.startswith("workspaces/") and not own and not f"{target.path}/".lower().startswith(f"{main}/".lower()):
            path = "/".join(target.path.split("/")[:9])
            if self._workspace.store.get(path) is None:
                raise _no_resource(path)
            message = (
                f"The local workspace runs jobs and serves models in '{main.rsplit('/', 1)[1]}' only; "
                f"'{target.segments[1]}' holds connections and nothing else."
            )
            raise bad_request(message)

    # -- seeding ---------------------------------------------------------------------------------------------------

    def grant(self, role: Role, principal: str | None = None, scope: str | None = None) -> None:
        """Assign a role without anybody's leave: to the login, over the subscription, unless others are named."""
        config = self._workspace.config
        who, where = principal or self._login, scope or f"/subscriptions/{config.subscription}"
        mark = str(uuid.uuid5(SEED, f"{who} {role.id} {where.lower()}"))
        authorization.assign(self._workspace.store, config, role=role, principal=who, scope=where, name=mark)

    def revoke(self, principal: str | None = None, role: Role | None = None) -> None:
        """Take a principal's assignments away, the login's by default: all, or those of a role."""
        for body in self._access.assignments():
            properties = body["properties"]
            of_role = role is None or properties["roleDefinitionId"].endswith(role.id)
            if of_role and properties["principalId"] == (principal or self._login):
                self._workspace.store.delete(body["id"])

    def seed_group(self) -> None:
        """A resource group with the workspace's dependencies, and every provider registered."""
        config, store = self._workspace.config, self._workspace.store
        for name in providers.TYPES:
            where = providers.provider_id(config.subscription, name)
            store.put(where, {"id": where, "registrationState": "Registered"})
        if store.get(config.group_id) is None:
            store.put(config.group_id, groups.group_document(config, config.resource_group, config.region, {}))
        given: dict[str, Document] = {
            "Microsoft.Storage/storageAccounts": {"sku": {"name": "Standard_LRS"}, "kind": "StorageV2"},
            "Microsoft.KeyVault/vaults": {
                "properties": {
                    "tenantId": config.tenant,
                    "sku": {"family": "A", "name": "standard"},
                    "accessPolicies": [],
                }
            },
            "Microsoft.OperationalInsights/workspaces": {},
            "Microsoft.Insights/components": {"kind": "web"},
            "Microsoft.ContainerRegistry/registries": {"sku": {"name": "Basic"}},
        }
        for kind in self._dependencies:
            what = kind.full_kind
            resource_id = f"{config.group_id}/providers/{what}/{config.account}"
            if what not in given or store.get(resource_id) is not None:
                continue
            call = Call(self._workspace, "PUT", resource_id, {}, {"location": config.region, **given[what]}, "local")
            body = kind.document(call, None)
            body["tags"] = {}
            kind.fill(call, body, None)
            body["properties"]["provisioningState"] = "Succeeded"
            store.put(resource_id, body)


def action_and_scope(method: str, target: Target) -> tuple[str, str]:
    """The action that a request is, and the scope over which it must be permitted."""
    if target.kind.lower().startswith("subscriptions/providers"):
        if method == "POST" and len(target.segments) > 3:
            return f"{target.segments[3]}/{target.segments[-1]}/action", f"/subscriptions/{target.subscription}"
        return "Microsoft.Resources/subscriptions/providers/read", f"/subscriptions/{target.subscription}"
    if method == "POST":
        types = "/".join(target.segments[0::2])
        return f"{target.namespace}/{types}/action", target.container if target.is_collection else target.path
    verb = {"GET": "read", "HEAD": "read", "DELETE": "delete"}.get(method, "write")
    return f"{target.namespace}/{target.kind}/{verb}", target.container if target.is_collection else target.path


def _no_resource(path: str) -> ArmError:
    at = path.lower().rfind("/providers/")
    group = path.split("/")[4]
    what = path[at + len("/providers/") :]
    message = (
        f"The Resource '{what}' under resource group '{group}' was not found. For more details please go to "
        "https://aka.ms/ARMResourceNotFoundFix"
    )
    return ArmError(404, "ResourceNotFound", message)
