"""Types that every workspace has and that nothing is made of here: their lists are empty, and a PUT says why."""

from __future__ import annotations

from mlops.local.arm.errors import ArmError, bad_request
from mlops.local.arm.resources import Answer, Call, ResourceType

KINDS = (
    "operations",
    "workspaces/batchEndpoints",
    "workspaces/features",
    "workspaces/featuresets",
    "workspaces/featurestoreEntities",
    "workspaces/marketplaceSubscriptions",
    "workspaces/outboundNetworkDependenciesEndpoints",
    "workspaces/outboundRules",
    "workspaces/privateEndpointConnections",
    "workspaces/privateLinkResources",
    "workspaces/schedules",
    "workspaces/serverlessEndpoints",
)


def unsupported_types() -> list[ResourceType]:
    """One of each."""
    return [Unsupported(kind) for kind in KINDS]


class Unsupported(ResourceType):
    """A type without resources."""

    def __init__(self, kind: str) -> None:
        self.kind = kind

    async def list(self, call: Call) -> Answer:
        """Nothing."""
        del call
        return Answer(200, {"value": []})

    async def put(self, call: Call) -> Answer:
        """Not offered."""
        del call
        raise bad_request(f"The local workspace has no resources of type '{self.kind}'.")

    def missing(self, call: Call) -> ArmError:
        """ARM's own 404."""
        return ArmError(404, "ResourceNotFound", f"The Resource '{call.resource_id}' was not found.")
