"""Workspaces: the one in which jobs run and models are served, and others (hubs, projects) that hold documents.

The workspace whose group and name are those of :class:`Config` is the real one, whether it was seeded or
somebody made it in an empty subscription.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from typing import Any

from mlops.local.arm.datastores import DatastoreType
from mlops.local.arm.errors import ArmError, bad_request, not_found
from mlops.local.arm.operated import OperatedType
from mlops.local.arm.operations import retry_after
from mlops.local.arm.resources import Answer, Call, page
from mlops.local.arm.shapes import mapping, tags, text
from mlops.local.arm.workspace_document import grave, is_main, settle
from mlops.local.jobs.part import JobsPart
from mlops.local.serving.part import Serving
from mlops.local.state.operations import now
from mlops.local.state.store import Document
from mlops.local.state.workspace import Workspace

NAME = re.compile(r"[A-Za-z0-9][-\w]{2,32}")
KINDS = {"default": "Default", "hub": "Hub", "project": "Project"}
DEPENDENCIES = {
    "storageAccount": "/providers/microsoft.storage/storageaccounts/",
    "keyVault": "/providers/microsoft.keyvault/vaults/",
    "applicationInsights": "/providers/microsoft.insights/components/",
    "containerRegistry": "/providers/microsoft.containerregistry/registries/",
}
CHANGEABLE = (
    *("friendlyName", "description", "publicNetworkAccess", "imageBuildCompute", "systemDatastoresAuthMode"),
    *("applicationInsights", "containerRegistry", "managedNetwork", "primaryUserAssignedIdentity"),
)


class WorkspaceType(OperatedType):
    """``workspaces``."""

    kind = "workspaces"
    operation = "workspace"
    writes = "create"

    def __init__(
        self, workspace: Workspace, datastores: DatastoreType, jobs: JobsPart, serving: Serving | None
    ) -> None:
        super().__init__(workspace)
        self._datastores = datastores
        self._jobs = jobs
        self._serving = serving

    # -- requests --------------------------------------------------------------------------------------------------

    async def put(self, call: Call) -> Answer:
        """Create by an operation; what exists takes the changes at once."""
        store = call.workspace.store
        existing = store.get(call.resource_id)
        if existing is not None:
            return self._change(call, existing)
        if not NAME.fullmatch(call.name):
            raise bad_request(f"'{call.name}' is not a valid workspace name: 3 to 33 letters, digits, '-' and '_'.")
        config = call.workspace.config
        buried = store.private(grave(config, call.resource_id)).get("body")
        wants = mapping(call.body.get("properties"), "properties").pop("allowRecoverSoftDeletedWorkspace", False)
        if buried is not None and not wants:
            message = (
                f"Soft-deleted workspace exists with the name '{call.name}'. Please purge or recover it: "
                "https://aka.ms/wsoftdelete"
            )
            raise ArmError(409, "Conflict", message)
        body = self.document(call, None)
        if not text(body.get("location"), "location"):
            raise ArmError(400, "LocationRequired", "The location property is required for this definition.")
        body["location"] = str(body["location"]).replace(" ", "").lower()
        body["tags"] = tags(body.get("tags"))
        kind = text(body.get("kind"), "kind") or "Default"
        if kind.lower() not in KINDS:
            raise bad_request(f"The workspace kind '{kind}' is not known here; use one of {', '.join(KINDS.values())}.")
        body["kind"] = KINDS[kind.lower()]
        if buried is not None:
            body["properties"] = {**buried["properties"], **body["properties"]}
        self._check_dependencies(call, body)
        settle(config, body, buried)
        body["properties"]["provisioningState"] = "Creating"
        store.put(body["id"], body)
        operation = call.workspace.operations.start("workspace.create", body["id"], prefix="")
        return Answer(201, body, self._headers(call, operation, location=False))

    async def patch(self, call: Call) -> Answer:
        """Tags (whole), description and the like."""
        return self._change(call, self.must(call))

    async def list(self, call: Call) -> Answer:
        """Those of a group, or of the subscription; by kind where that is asked for."""
        store, marks = call.workspace.store, [part.lower() for part in call.resource_id.split("/")]
        within = "resourcegroups" in marks
        workspaces = (
            store.children(call.resource_id) if within else store.ending(f"/providers/{self.namespace}/workspaces")
        )
        kinds = [kind.strip().lower() for kind in call.query.get("kind", "").split(",") if kind.strip()]
        return page(self, call, [body for body in workspaces if not kinds or body["kind"].lower() in kinds], size=None)

    async def delete(self, call: Call) -> Answer:
        """Delete by an operation, with all that it holds; for good with ``forceToPurge=true``."""
        store, config = call.workspace.store, call.workspace.config
        purge = call.query.get("forceToPurge", "").lower() == "true"
        existing = store.get(call.resource_id)
        if existing is None:
            return Answer(200 if purge and store.delete(grave(config, call.resource_id)) else 204)
        projects = self._projects(existing["id"])
        if projects:
            message = f"The hub '{existing['name']}' has projects, delete these first: {', '.join(projects)}."
            raise ArmError(409, "Conflict", message)

        self.enter(call.resource_id, "Deleting")
        operation = call.workspace.operations.start("workspace.delete", existing["id"], {"purge": purge}, prefix="")
        return Answer(202, None, self._headers(call, operation, location=True))

    async def action(self, call: Call, action: str) -> Answer:
        """The few that clients call."""
        body = self.must(call)
        account = body["properties"].get("storageAccount")
        key = self._datastores.blobs.account_key if is_main(call.workspace.config, body["id"]) else None
        match action.lower():
            case "resynckeys" | "diagnose":
                return Answer(200, None)
            case "liststorageaccountkeys":
                return Answer(200, {"userStorageKey": key})
            case "listkeys":
                return Answer(
                    200,
                    {
                        "userStorageKey": key,
                        "userStorageArmId": account,
                        "userStorageResourceId": account,
                        "appInsightsInstrumentationKey": None,
                        "containerRegistryCredentials": None,
                        "notebookAccessKeys": None,
                    },
                )
        raise not_found(f"The action '{action}' is not known on a workspace.")

    def missing(self, call: Call) -> ArmError:
        """ARM's own 404."""
        kind = f"Microsoft.MachineLearningServices/workspaces/{call.name}"
        group = call.resource_id.split("/")[4]
        message = f"The Resource '{kind}' under resource group '{group}' was not found."
        return ArmError(404, "ResourceNotFound", message)

    # -- decisions -------------------------------------------------------------------------------------------------

    def _check_dependencies(self, call: Call, body: Document) -> None:
        """The workspace's dependencies must exist; a project has its hub's."""
        store, properties = call.workspace.store, body["properties"]
        if body["kind"] == "Project":
            hub = store.get(str(properties.get("hubResourceId")))
            if hub is None or hub["kind"] != "Hub":
                raise bad_request(f"The hub '{properties.get('hubResourceId')}' of the project was not found.")
            for name in DEPENDENCIES:
                if properties.get(name):
                    raise bad_request(f"A project has the '{name}' of its hub and names none.")
                properties[name] = hub["properties"].get(name)
            return
        for name in ("storageAccount", "keyVault"):
            if not properties.get(name):
                raise bad_request(f"The property '{name}' is required for a workspace.")
        for name, mark in DEPENDENCIES.items():
            dependency = text(properties.get(name), f"properties.{name}")
            if dependency and (mark not in dependency.lower() or store.get(dependency) is None):
                raise ArmError(400, "ResourceNotFound", f"The {name} '{dependency}' of the workspace was not found.")
            if dependency and (store.get(dependency) or {})["properties"].get("provisioningState") != "Succeeded":
                raise ArmError(409, "Conflict", f"The {name} '{dependency}' of the workspace is not ready.")

    def _change(self, call: Call, existing: Document) -> Answer:
        state = existing["properties"]["provisioningState"]
        if state in ("Creating", "Deleting"):
            raise ArmError(
                409, "Conflict", f"The workspace '{existing['name']}' is in state '{state}'; try again later."
            )
        given = call.body
        properties = mapping(given.get("properties"), "properties")
        for name in ("storageAccount", "keyVault", "hubResourceId"):
            value = properties.get(name)
            if value and str(value).lower() != str(existing["properties"].get(name)).lower():
                raise bad_request(f"The '{name}' of a workspace cannot be changed.")

        def change(body: Document) -> None:
            if given.get("tags") is not None:
                body["tags"] = tags(given["tags"])
            body["properties"].update({name: properties[name] for name in CHANGEABLE if name in properties})
            body["systemData"].update(lastModifiedAt=now(), lastModifiedBy=call.caller)
            body["properties"]["provisioningState"] = "Succeeded"

        return Answer(200, call.workspace.store.update(existing["id"], change))

    def _projects(self, hub_id: str) -> Sequence[str]:
        every = self._workspace.store.ending(f"/providers/{self.namespace}/workspaces")
        return [
            body["name"] for body in every if str(body["properties"].get("hubResourceId")).lower() == hub_id.lower()
        ]

    def _headers(self, call: Call, operation: str, *, location: bool) -> dict[str, str]:
        config = call.workspace.config
        where = f"https://{call.host}/subscriptions/{config.subscription}/providers/{self.namespace}"
        tail = f"{operation}?api-version={call.api_version}"
        headers = {"Azure-AsyncOperation": f"{where}/locations/{config.region}/workspaceOperationsStatus/{tail}"}
        if location:
            headers["Location"] = f"{where}/locations/{config.region}/mfeOperationResults/{tail}"
        return headers | retry_after(config.retry_after_s)

    # -- operations ------------------------------------------------------------------------------------------------

    async def _write(self, resource_id: str, arguments: dict[str, Any]) -> None:
        del arguments
        config, store = self._workspace.config, self._workspace.store
        await asyncio.sleep(config.resource_operation_s)
        if is_main(config, resource_id):
            body = store.get(resource_id) or {}
            self._datastores.blobs.serve_account(body["properties"]["storageAccount"])
            self._datastores.seed(self._workspace)
        store.delete(grave(config, resource_id))
        self.enter(resource_id, "Succeeded")

    async def _delete(self, resource_id: str, arguments: dict[str, Any]) -> None:
        await asyncio.sleep(self._workspace.config.delete_operation_s)
        await self.bury(resource_id, purge=bool(arguments.get("purge")))

    async def gone(self, body: Document) -> None:
        """With its group it goes for good."""
        await self.bury(body["id"], purge=True)

    async def bury(self, workspace_id: str, *, purge: bool) -> None:
        """End what runs in a workspace and take it away; unless purged it keeps its name."""
        store, config = self._workspace.store, self._workspace.config
        body = store.get(workspace_id)
        if body is None:
            return
        if is_main(config, workspace_id):
            if self._serving is not None:
                await self._serving.forget_all()
            await self._jobs.forget_all()
        with store.transaction():
            store.delete(workspace_id)
            if not purge:
                store.put(grave(config, workspace_id), {"id": workspace_id}, private={"body": body})
