"""Clusters and machine sizes."""

from __future__ import annotations

from typing import Any

from mlops.azure.errors import NotFoundError, translated
from mlops.azure.session import Session, finished, text
from mlops.errors import AzureError, PreconditionError
from mlops.resources import Cluster, VmSize
from mlops.settings import Compute


def get(session: Session, name: str) -> Cluster | None:
    """A cluster by its name; None where there is none."""
    try:
        with translated(f"look up the cluster '{name}'"):
            return _cluster(session.ml.compute.get(name))
    except NotFoundError:
        return None


def create(session: Session, wanted: Compute) -> Cluster:
    """Create a cluster in its tier; where Dedicated cannot be had, as LowPriority.

    Raises:
        PreconditionError: neither tier can be had.
    """
    tiers = [wanted.tier] if wanted.tier == "LowPriority" else ["Dedicated", "LowPriority"]
    refusals: list[str] = []
    for tier in tiers:
        try:
            return _create(session, wanted, tier)
        except (AzureError, PreconditionError) as error:
            refusals.append(f"{tier}: {error.message}")
            if tier != tiers[-1]:
                session.console.warn(f"the cluster cannot be had as {tier}; trying {tiers[-1]}: {error.message}")
    raise PreconditionError(
        f"the cluster '{wanted.name}' ({wanted.size}) cannot be created", details=refusals,
        hint="ask for quota, or choose another size under compute.size in mlops.yaml",
    )  # fmt: skip


def _create(session: Session, wanted: Compute, tier: str) -> Cluster:
    from azure.ai.ml.entities import AmlCompute

    nodes = wanted.max_nodes if tier == "Dedicated" else max(wanted.max_nodes, wanted.max_nodes_low_priority)
    cluster = AmlCompute(
        name=wanted.name,
        size=wanted.size,
        tier=tier,
        min_instances=wanted.min_nodes,
        max_instances=nodes,
        idle_time_before_scale_down=wanted.idle_s,
    )
    with translated(f"create the cluster '{wanted.name}' ({wanted.size}, {tier})"):
        return _cluster(finished(session.ml.compute.begin_create_or_update(cluster)))


def sizes(session: Session) -> list[VmSize]:
    """The sizes that the workspace's region offers."""
    with translated("list the machine sizes of the region"):
        return [_size(item) for item in session.ml.compute.list_sizes()]


def _cluster(found: Any) -> Cluster:
    return Cluster(
        name=found.name,
        size=getattr(found, "size", None) or "",
        state=text(found.provisioning_state),
        tier=text(getattr(found, "tier", None)),
        min_nodes=int(getattr(found, "min_instances", 0) or 0),
        max_nodes=int(getattr(found, "max_instances", 0) or 0),
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
