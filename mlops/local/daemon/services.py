"""The parts of the daemon, built once and handed to whoever needs them."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Protocol

from mlops.local.arm.access import Access
from mlops.local.arm.group_resource import GroupResource
from mlops.local.arm.managed_identities import UserAssignedIdentities
from mlops.local.arm.principals import Principals
from mlops.local.arm.quota import FamilyQuotas
from mlops.local.arm.subscription import Subscription
from mlops.local.arm.vaults import Vaults
from mlops.local.arm.workspace_dependencies import (
    ApplicationInsights,
    ContainerRegistries,
    LogAnalytics,
    StorageAccounts,
)
from mlops.local.blob.store import Blobs
from mlops.local.daemon.faults import Faults
from mlops.local.entra.credentials import Credentials
from mlops.local.entra.identity import Identity
from mlops.local.jobs.part import JobsPart
from mlops.local.registry.part import RegistryPart
from mlops.local.serving.part import Serving
from mlops.local.state.limits import Limits
from mlops.local.state.workspace import Workspace
from mlops.local.tracking.part import TrackingPart

PARTS = ("registry", "tracking", "jobs", "serving")


class Lifecycle(Protocol):
    """A part with processes of its own, which the server starts and stops.

    They inherit the daemon's environment (its variable ``MLOPS_LOCAL_STATE`` marks them), so that ``mlops local stop``
    finds them even when the daemon was killed.
    """

    async def start(self) -> None:
        """After the daemon started, perhaps after one that was killed: find or restart processes, resume work."""

    async def stop(self) -> None:
        """Leave no process behind."""


@dataclass(frozen=True, kw_only=True)
class Services:
    """What answers requests; a part that ``MLOPS_LOCAL_PARTS`` leaves out is None, and so is one that needs it."""

    workspace: Workspace
    limits: Limits
    quotas: FamilyQuotas
    access: Access
    principals: Principals
    identity: Identity
    blobs: Blobs
    faults: Faults
    dependencies: tuple[GroupResource, ...]
    """The types of what a workspace needs around it."""
    subscription: Subscription
    registry: RegistryPart | None
    tracking: TrackingPart | None
    jobs: JobsPart | None
    serving: Serving | None

    @property
    def parts(self) -> dict[str, Lifecycle]:
        """Those that are there, by name."""
        candidates: dict[str, Lifecycle | None] = {
            "registry": self.registry,
            "tracking": self.tracking,
            "jobs": self.jobs,
            "serving": self.serving,
        }
        return {name: part for name, part in candidates.items() if part is not None}


def build(workspace: Workspace, credentials: Credentials, limits: Limits, parts: Collection[str] = PARTS) -> Services:
    """Build every part, each from those that it needs."""
    config, store, login = workspace.config, workspace.store, credentials.object_id
    access, principals = Access(store), Principals(store, config, login)
    identity = Identity(workspace.layout, config, workspace.accounts, credentials, principals)
    blobs = Blobs(workspace.layout, config, workspace.accounts, store, credentials.account_key)
    dependencies = (
        StorageAccounts(workspace, limits, blobs),
        Vaults(workspace, limits),
        LogAnalytics(workspace, limits),
        ApplicationInsights(workspace, limits),
        ContainerRegistries(workspace, limits),
        UserAssignedIdentities(workspace, limits),
    )
    registry = RegistryPart(workspace) if "registry" in parts else None
    tracking = TrackingPart(workspace) if "tracking" in parts else None
    jobs = JobsPart(workspace, registry, tracking) if registry and "jobs" in parts else None
    return Services(
        workspace=workspace,
        limits=limits,
        quotas=FamilyQuotas(limits, store),
        access=access,
        principals=principals,
        identity=identity,
        blobs=blobs,
        faults=Faults(workspace.layout.root / "faults.json"),
        dependencies=dependencies,
        subscription=Subscription(workspace, access, login, dependencies),
        registry=registry,
        tracking=tracking,
        jobs=jobs,
        serving=Serving(workspace, limits, jobs, identity) if jobs and "serving" in parts else None,
    )
