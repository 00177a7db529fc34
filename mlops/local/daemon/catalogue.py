"""Every type of Azure resource that the control plane answers for; a new one is added here."""

from __future__ import annotations

from collections.abc import Iterable

from mlops.local.arm import (
    assets,
    authorization,
    computes,
    connections,
    datastores,
    deployments,
    endpoints,
    groups,
    jobs,
    managed_identities,
    providers,
    quota,
    quota_requests,
    registries,
    unsupported,
    vaults,
    workspaces,
)
from mlops.local.arm.access import Access
from mlops.local.arm.resources import ResourceType
from mlops.local.arm.versions import ContainerType
from mlops.local.blob.store import Blobs
from mlops.local.daemon.services import Services
from mlops.local.jobs.part import JobsPart
from mlops.local.registry.part import RegistryPart
from mlops.local.serving.part import Serving
from mlops.local.state.workspace import Workspace


def resource_types(services: Services) -> list[ResourceType]:
    """One object for each type; those of a part that is left out are unknown to the control plane."""
    training: list[ResourceType] = []
    if services.registry and services.jobs:
        datastore_type = datastores.DatastoreType(services.blobs)
        training = [
            workspaces.WorkspaceType(services.workspace, datastore_type, services.jobs, services.serving),
            connections.Connections(),
            datastore_type,
            jobs.JobType(services.jobs, services.registry, services.tracking),
            *asset_types(services.jobs, services.registry, services.blobs),
            *unsupported.unsupported_types(),
        ]
    return [
        *subscription_types(services, (*services.dependencies, *training)),
        *services.dependencies,
        *(registry_types(services.registry, services.blobs) if services.registry else ()),
        *training,
        *(
            serving_types(services.workspace, services.serving, services.access, services.quotas)
            if services.serving
            else ()
        ),
    ]


def subscription_types(services: Services, contained: Iterable[ResourceType]) -> list[ResourceType]:
    """Groups, providers, identities, roles and quota; ``contained`` are the types that lie in groups."""
    workspace, access = services.workspace, services.access
    return [
        groups.Tenants(),
        groups.Subscriptions(),
        groups.Locations(),
        groups.Groups(workspace, access, contained),
        groups.GroupResources(access, "subscriptions/resources"),
        groups.GroupResources(access, "subscriptions/resourceGroups/resources"),
        providers.Providers(workspace, services.dependencies),
        vaults.DeletedVaults(workspace),
        vaults.DeletedVaults(workspace, "deletedVaults"),
        managed_identities.FederatedCredentials(),
        authorization.RoleDefinitions(),
        authorization.RoleAssignments(workspace, access, services.principals),
        authorization.Permissions(access),
        authorization.DenyAssignments(),
        quota_requests.QuotaLimits(workspace, services.quotas),
        quota_requests.QuotaRequests(),
        quota_requests.QuotaUsages(),
    ]


def asset_types(part: JobsPart, registry: RegistryPart, blobs: Blobs) -> list[ResourceType]:
    """Models, data, environments, codes and components, in the workspace and in the registry."""
    types: list[ResourceType] = []
    for scope in ("workspaces", "registries"):
        versions = (
            assets.ModelVersions(scope, part, registry),
            assets.DataVersions(scope, part, registry),
            assets.EnvironmentVersions(scope, part, registry),
            assets.CodeVersions(scope, part, registry, blobs),
            assets.ComponentVersions(scope, part, registry),
        )
        types += [ContainerType(scope, kind.family) for kind in versions]
        types += versions
    return types


def registry_types(registry: RegistryPart, blobs: Blobs) -> list[ResourceType]:
    """The registry itself, and what opens its files."""
    return [
        registries.RegistryType(),
        registries.UploadReference(blobs),
        registries.DataReference(blobs, registry),
    ]


def serving_types(
    workspace: Workspace, serving: Serving, access: Access, quotas: quota.FamilyQuotas
) -> list[ResourceType]:
    """Clusters, endpoints, deployments, and the quota that they use."""
    limits = serving.limits
    return [
        computes.Computes(workspace, limits, quotas),
        endpoints.Endpoints(workspace, serving, access),
        deployments.Deployments(workspace, serving, quotas),
        quota.DeploymentSkus(limits),
        quota.VmSizes(),
        quota.Usages(limits, quotas),
        quota.Quotas(quotas),
    ]
