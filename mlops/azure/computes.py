"""Clusters and machine sizes."""

from __future__ import annotations

from typing import Any

from mlops.azure.ensure import ensure, settled
from mlops.azure.errors import NotFoundError, translated
from mlops.azure.session import Session, finished, text
from mlops.config.settings import Compute
from mlops.core.errors import AzureError, PreconditionError
from mlops.core.resources import MANAGED_BY, MANAGED_TAG, Cluster, VmSize

ACTIVE = frozenset({"running", "preparing", "leaving"})
"""States of a node that is at work for somebody."""


def get(session: Session, name: str) -> Cluster | None:
    """A cluster by its name; None where there is none."""
    try:
        with translated(f"look up the cluster '{name}'"):
            return _cluster(session.ml.compute.get(name))
    except NotFoundError:
        return None


def listed(session: Session) -> list[Cluster]:
    """Every cluster of the workspace."""
    with translated("list the clusters"):
        return [_cluster(item) for item in session.ml.compute.list(compute_type="amlcompute")]


def busy(session: Session, name: str) -> str | None:
    """Why a cluster is not idle: a node of it works for somebody, or comes or goes; None where it is idle."""
    try:
        with translated(f"list the nodes of the cluster '{name}'"):
            states = [text(node.node_state).lower() for node in session.ml.compute.list_nodes(name)]
    except NotFoundError:
        return None
    active = [state for state in states if state in ACTIVE]
    return f"{len(active)} of its nodes {'is' if len(active) == 1 else 'are'} {active[0]}" if active else None


def nodes(session: Session, name: str) -> int:
    """How many nodes a cluster has at this moment, all of which take of its quota."""
    try:
        with translated(f"list the nodes of the cluster '{name}'"):
            return sum(1 for _ in session.ml.compute.list_nodes(name))
    except NotFoundError:
        return 0


def scale_down(session: Session, name: str, min_nodes: int = 0) -> None:
    """Let a cluster shrink to so few nodes; all else about it stays. One that is gone is no error."""

    def change() -> None:
        with translated(f"scale down the cluster '{name}'"):
            cluster = session.ml.compute.get(name)
            cluster.min_instances = min_nodes
            if cluster.network_settings and not cluster.network_settings.subnet:
                cluster.network_settings = None  # what the SDK makes of a public address, it cannot send back
            finished(session.ml.compute.begin_create_or_update(cluster))

    def holds() -> bool | None:
        cluster = get(session, name)
        return True if cluster is None or cluster.min_nodes <= min_nodes else None

    ensure(change, holds)


def delete(session: Session, name: str) -> None:
    """Delete a cluster; one that is gone is no error."""
    try:
        with translated(f"delete the cluster '{name}'"):
            finished(session.ml.compute.begin_delete(name))
    except NotFoundError:
        return


def widen(session: Session, name: str, max_nodes: int) -> None:
    """Let a cluster grow to so many nodes; all else about it stays."""

    def change() -> None:
        with translated(f"change the cluster '{name}'"):
            cluster = session.ml.compute.get(name)
            cluster.max_instances = max_nodes
            if cluster.network_settings and not cluster.network_settings.subnet:
                cluster.network_settings = None  # what the SDK makes of a public address, it cannot send back
            finished(session.ml.compute.begin_create_or_update(cluster))

    def holds() -> bool | None:
        cluster = get(session, name)
        return True if cluster is not None and cluster.max_nodes == max_nodes else None

    ensure(change, holds)


def create(session: Session, settings: Compute) -> Cluster:
    """Create a cluster in its tier; where Dedicated cannot be had, as LowPriority.

    One that somebody else makes at the same moment is taken when it is there, in the tier that it then has.

    Raises:
        PreconditionError: neither tier can be had.
    """
    tiers = [settings.tier] if settings.tier == "LowPriority" else ["Dedicated", "LowPriority"]
    refusals: list[str] = []
    for tier in tiers:
        try:
            return _create(session, settings, tier)
        except (AzureError, PreconditionError) as error:
            refusals.append(f"{tier}: {error.message}")
            if tier != tiers[-1]:
                session.console.warn(f"the cluster cannot be had as {tier}; trying {tiers[-1]}: {error.message}")
    raise PreconditionError(
        f"the cluster '{settings.name}' ({settings.size}) cannot be created",
        details=refusals,
        hint="ask for quota, or choose another size under compute.size in mlops.yaml",
    )


def _create(session: Session, settings: Compute, tier: str) -> Cluster:
    from azure.ai.ml.entities import AmlCompute

    nodes = settings.max_nodes if tier == "Dedicated" else max(settings.max_nodes, settings.max_nodes_low_priority)
    cluster = AmlCompute(
        name=settings.name,
        size=settings.size,
        tier=tier,
        min_instances=settings.min_nodes,
        max_instances=nodes,
        idle_time_before_scale_down=settings.idle_s,
        tags={MANAGED_TAG: MANAGED_BY},
    )

    def make() -> None:
        with translated(f"create the cluster '{settings.name}' ({settings.size}, {tier})"):
            finished(session.ml.compute.begin_create_or_update(cluster))

    def holds() -> Cluster | None:
        what = f"the cluster '{settings.name}'"
        current = settled(session, what, lambda: get(session, settings.name), lambda one: one.state)
        return current if current is not None and current.state.lower() == "succeeded" else None

    return ensure(make, holds)


def sizes(session: Session, region: str | None = None) -> list[VmSize]:
    """The sizes that a region offers, the workspace's by default."""
    with translated("list the machine sizes of the region"):
        return [_size(item) for item in session.ml.compute.list_sizes(location=region)]


def _cluster(entity: Any) -> Cluster:
    return Cluster(
        name=entity.name,
        size=getattr(entity, "size", None) or "",
        state=text(entity.provisioning_state),
        tier=text(getattr(entity, "tier", None)),
        min_nodes=int(getattr(entity, "min_instances", 0) or 0),
        max_nodes=int(getattr(entity, "max_instances", 0) or 0),
        tags=dict(getattr(entity, "tags", None) or {}),
    )


def _size(item: Any) -> VmSize:
    # The SDK copies the wire's names into the object, which differ between its versions.
    values = {key.lower().replace("_", ""): value for key, value in vars(item).items()}
    return VmSize(
        name=str(values.get("name") or ""),
        family=str(values.get("family") or ""),
        cores=int(values.get("vcpus") or 0),
        gpus=int(values.get("gpus") or 0),
        memory_gb=float(values.get("memorygb") or 0),
    )
