"""Online endpoints: the processes that serve deployments, and the gateway before them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mlops.local.serving.fleet import Assets, Fleet
from mlops.local.serving.gateway import Gateway, Tokens
from mlops.local.serving.spec import Spec
from mlops.local.state.limits import Limits
from mlops.local.state.workspace import Workspace

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response


class Serving:
    """The part of the daemon behind online endpoints and compute."""

    def __init__(self, workspace: Workspace, limits: Limits, assets: Assets, tokens: Tokens) -> None:
        self.workspace = workspace
        self.limits = limits
        self.fleet = Fleet(workspace, limits, assets)
        self._gateway = Gateway(workspace, self.fleet, limits, tokens)

    async def gateway(self, request: Request) -> Response:
        """Answer a scoring request."""
        return await self._gateway.answer(request)

    def forget(self, endpoint: str) -> None:
        """An endpoint was changed: the gateway reads it anew."""
        self._gateway.forget(endpoint)

    async def forget_all(self) -> None:
        """Take every deployment out of service: the workspace is deleted."""
        store = self.workspace.store
        for endpoint in store.children(f"{self.workspace.config.workspace_id}/onlineEndpoints"):
            for deployment in store.children(f"{endpoint['id']}/deployments"):
                await self.fleet.retire(deployment["id"])
            self.forget(endpoint["name"])

    async def start(self) -> None:
        """Take over the scoring processes that an earlier daemon left, start those that are gone, end strays."""
        store = self.workspace.store
        for endpoint in store.children(f"{self.workspace.config.workspace_id}/onlineEndpoints"):
            for body in store.children(f"{endpoint['id']}/deployments"):
                private = store.private(body["id"])
                if private.get("generation") and body["properties"]["provisioningState"] != "Deleting":
                    # what served last, not what the document wishes: its last change may have failed
                    self.fleet.adopt(Spec.of(private["served"]), private["generation"])
        await self.fleet.sweep()

    async def stop(self) -> None:
        """Leave no scoring process behind."""
        await self.fleet.stop()

    def status(self) -> list[dict[str, Any]]:
        """What runs, for people: deployments with their processes and counts of answers by status."""
        return [
            {
                "endpoint": running.spec.endpoint,
                "deployment": running.spec.name,
                "pids": [instance.pid for instance in running.instances],
                "healthy": sum(instance.healthy for instance in running.instances),
                "instances": len(running.instances),
                "restarts": running.restarts,
                "in_flight": running.in_flight,
                "answers": {str(status): count for status, count in sorted(self.fleet.counts.get(key, {}).items())},
            }
            for key, running in self.fleet.running.items()
        ]

    def crash(self, endpoint: str, deployment: str) -> bool:
        """Kill a deployment's processes, as a fault on request; False where none runs."""
        resource_id = f"{self.workspace.config.workspace_id}/onlineEndpoints/{endpoint}/deployments/{deployment}"
        running = self.fleet.running.get(resource_id.lower())
        if running is None:
            return False
        for instance in running.instances:
            instance.kill()
        return True
