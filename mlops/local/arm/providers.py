"""Resource providers: a fresh subscription has none, and each must be registered before its types can be used."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from mlops.local.arm.errors import ArmError, bad_request
from mlops.local.arm.group_resource import GroupResource
from mlops.local.arm.resources import Answer, Call, ResourceType
from mlops.local.arm.shapes import text
from mlops.local.arm.target import RESOURCES
from mlops.local.state.store import Document, Store
from mlops.local.state.workspace import Workspace

TYPES: dict[str, tuple[str, ...]] = {
    "Microsoft.MachineLearningServices": ("workspaces", "workspaces/onlineEndpoints", "workspaces/computes"),
    "Microsoft.Storage": ("storageAccounts",),
    "Microsoft.KeyVault": ("vaults", "deletedVaults"),
    "Microsoft.OperationalInsights": ("workspaces",),
    "Microsoft.Insights": ("components",),
    "Microsoft.ContainerRegistry": ("registries",),
    "Microsoft.ManagedIdentity": ("userAssignedIdentities",),
    "Microsoft.Quota": ("quotas", "quotaRequests"),
    "Microsoft.AlertsManagement": ("smartDetectorAlertRules",),
    "Microsoft.CognitiveServices": ("accounts",),
    "Microsoft.Compute": ("virtualMachines",),
    "Microsoft.Network": ("virtualNetworks",),
    "Microsoft.PolicyInsights": ("policyStates",),
    "Microsoft.Cdn": ("profiles",),
}
ALWAYS = ("Microsoft.Authorization", "Microsoft.Resources")
"""Registered in every subscription from its first day, and never anything else."""
NAMES = {name.lower(): name for name in (*TYPES, *ALWAYS)}


def provider_id(subscription: str, namespace: str) -> str:
    """The id under which a provider's state is kept."""
    return f"/subscriptions/{subscription}/providers/{NAMES[namespace.lower()]}"


def state(store: Store, subscription: str, namespace: str) -> str:
    """``Registered``, ``Registering``, ``NotRegistered``."""
    if namespace.lower() not in NAMES:
        raise ArmError(404, "InvalidResourceNamespace", f"The resource namespace '{namespace}' is invalid.")
    if NAMES[namespace.lower()] in ALWAYS:
        return "Registered"
    return str((store.get(provider_id(subscription, namespace)) or {}).get("registrationState", "NotRegistered"))


def need(store: Store, subscription: str, namespace: str) -> None:
    """Refuse what a provider that is not registered would have to do."""
    if state(store, subscription, namespace) not in ("Registered", "Registering"):
        message = (
            f"The subscription is not registered to use namespace '{NAMES[namespace.lower()]}'. "
            "See https://aka.ms/rps-not-found for how to register subscriptions."
        )
        detail = (f"{NAMES[namespace.lower()]}", message)
        raise ArmError(409, "MissingSubscriptionRegistration", message, details=[detail])


class Providers(ResourceType):
    """``subscriptions/{id}/providers``: get, list, register, unregister; and ``checkNameAvailability`` of each."""

    namespace = RESOURCES
    kind = "subscriptions/providers"

    def __init__(self, workspace: Workspace, dependencies: Sequence[GroupResource]) -> None:
        self._workspace = workspace
        self._dependencies = dependencies
        workspace.operations.register("provider.register", self._register)

    async def get(self, call: Call) -> Answer:
        """One with its types."""
        return Answer(200, self._shown(call.name))

    async def list(self, call: Call) -> Answer:
        """All of them."""
        del call
        return Answer(200, {"value": [self._shown(name) for name in (*TYPES, *ALWAYS)]})

    async def action(self, call: Call, action: str) -> Answer:
        """Registering takes a while: the answer says ``Registering``, a later GET ``Registered``."""
        store, subscription = call.workspace.store, call.workspace.config.subscription
        now_there = state(store, subscription, call.name)
        where = provider_id(subscription, call.name)
        if action.lower() == "register":
            if now_there == "NotRegistered":
                store.put(where, {"id": where, "registrationState": "Registering"})
                call.workspace.operations.start("provider.register", where, prefix="")
            return Answer(200, self._shown(call.name))
        if action.lower() == "unregister":
            store.delete(where)
            return Answer(200, self._shown(call.name))
        if action.lower() == "checknameavailability":
            return Answer(200, self._check_name(call))
        raise ArmError(404, "InvalidResourceType", f"The resource type '{action}' could not be found.")

    def _check_name(self, call: Call) -> Document:
        name = text(call.body.get("name"), "name") or ""
        kind = next((each for each in self._dependencies if each.namespace.lower() == call.name.lower()), None)
        if kind is None or not name:
            raise bad_request(f"'{call.name}' checks no names here.")
        try:
            kind.check_new(replace(call, resource_id=f"/x/{name}"))
        except ArmError as error:
            reason = "AlreadyExists" if error.status == 409 else "AccountNameInvalid"
            return {"nameAvailable": False, "reason": reason, "message": error.message}
        return {"nameAvailable": True}

    def _shown(self, name: str) -> Document:
        config = self._workspace.config
        registration = state(self._workspace.store, config.subscription, name)
        known = NAMES[name.lower()]
        kinds = [
            {"resourceType": kind, "locations": [config.region], "apiVersions": ["2024-10-01"], "capabilities": "None"}
            for kind in TYPES.get(known, ())
        ]
        policy = "RegistrationFree" if known in ALWAYS else "RegistrationRequired"
        return {
            "id": f"/subscriptions/{config.subscription}/providers/{known}",
            "namespace": known,
            "resourceTypes": kinds,
            "registrationState": registration,
            "registrationPolicy": policy,
        }

    async def _register(self, where: str, arguments: dict[str, Any]) -> None:
        del arguments
        await asyncio.sleep(self._workspace.config.resource_operation_s)

        def done(body: Document) -> None:
            body["registrationState"] = "Registered"

        self._workspace.store.update(where, done)
