"""What must hold before a training begins: the base model, the cluster, the quota.

`mlops train` refuses for it, and `mlops doctor` finds it, by these same functions.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from mlops.azure import computes, models
from mlops.azure.errors import DeniedError
from mlops.azure.quota import usages
from mlops.core.errors import AzureError, PreconditionError
from mlops.core.resources import Cluster, ModelVersion, Usage, VmSize
from mlops.machines import catalogue, quota

if TYPE_CHECKING:
    from mlops.azure.session import Session
    from mlops.config.settings import Settings

LOW_PRIORITY = "lowpriority"
NOT_THERE = "to be created"
"""The state of a cluster that the settings ask for and that does not exist."""


def find_base_model(session: Session, settings: Settings) -> ModelVersion | None:
    """The registry's model where the settings ask for one; None where the pipeline fetches it from the hub.

    Raises:
        PreconditionError: the registry has no such model, or it is retired.
    """
    if settings.base_model.source == "huggingface":
        return None
    model = look_up_base_model(session, settings)
    if not settings.is_local:  # whose registry has no other
        catalogue.check_model(model)
    return model


def look_up_base_model(session: Session, settings: Settings) -> ModelVersion:
    """The registry's model, alive or not.

    Raises:
        PreconditionError: the registry has no such model.
    """
    choice = settings.base_model
    model = models.get(session, choice.name, choice.version, registry=choice.registry)
    if model is None:
        raise PreconditionError(
            f"the registry '{choice.registry}' has no model '{choice.name}' ({choice.version})",
            hint="choose another base_model in mlops.yaml",
        )
    return model


def check_compute(session: Session, settings: Settings, *, base: ModelVersion | None) -> tuple[Cluster, VmSize]:
    """Find the cluster, or what it would be, and the size of its nodes.

    Raises:
        PreconditionError: a retired size, one off the allow-list, a failed cluster, one without GPUs.
    """
    desired = settings.compute
    catalogue.check_size(desired.size)
    cluster = computes.get(session, desired.name) or planned_cluster(settings)
    check_cluster(cluster)
    check_trainable(settings, cluster.size, base)
    return cluster, check_gpus(cluster.size, offered(session, cluster.size))


def offered(session: Session, size: str) -> Sequence[VmSize]:
    """What the region offers; where this login may not ask (it takes a role on the subscription), what is known.

    Raises:
        DeniedError: this login may not ask, and the size is none that is known.
    """
    try:
        return computes.sizes(session)
    except DeniedError as error:
        known = known_sizes()
        if all(each.name.lower() != size.lower() for each in known):
            error.hint = (
                "give the login the role Reader on the subscription, or take a size of mlops/machines/sizes.yaml"
            )
            raise
        return known


@functools.cache
def known_sizes() -> tuple[VmSize, ...]:
    """The GPU sizes of ``mlops/machines/sizes.yaml``."""
    import yaml

    text = (Path(__file__).parents[1] / "machines" / "sizes.yaml").read_text(encoding="utf-8")
    return tuple(VmSize(name=name, **facts) for name, facts in yaml.safe_load(text).items())


def planned_cluster(settings: Settings) -> Cluster:
    """What the cluster would be that the settings ask for."""
    desired = settings.compute
    return Cluster(
        name=desired.name,
        size=desired.size,
        state=NOT_THERE,
        tier=desired.tier,
        min_nodes=desired.min_nodes,
        max_nodes=desired.max_nodes,
    )


def is_low_priority(cluster: Cluster) -> bool:
    """Whether its nodes may be taken away, and are counted apart; the SDK and Azure write the tier differently."""
    return cluster.tier.lower().replace("_", "") == LOW_PRIORITY


def make_cluster(session: Session, settings: Settings, cluster: Cluster) -> Cluster:
    """The cluster, made where it is not there.

    Raises:
        PreconditionError: it cannot be had.
    """
    if cluster.state != NOT_THERE:
        return cluster
    desired = settings.compute
    session.console.say(f"the cluster '{desired.name}' does not exist; creating it ({desired.size}, {desired.tier})")
    created = computes.create(session, desired)
    check_cluster(created)
    return created


def check_cluster(cluster: Cluster) -> None:
    """Refuse a cluster that takes no jobs.

    Raises:
        PreconditionError: with its state.
    """
    if cluster.state.lower() == "failed":
        raise PreconditionError(
            f"the cluster '{cluster.name}' is in the state '{cluster.state}'",
            hint="delete it, or name another under compute.name in mlops.yaml",
        )


def check_trainable(settings: Settings, size: str, base: ModelVersion | None) -> None:
    """Refuse a size that is retired, or cannot train the base model.

    Raises:
        PreconditionError: with what can be used.
    """
    catalogue.check_size(size)
    allowed = catalogue.allowed_sizes(base.tags, base.properties, purpose="finetune") if base else None
    model = base.name if base else settings.base_model.huggingface_id
    catalogue.check_allowed(size, allowed, model=model, purpose="finetune")


def check_gpus(size: str, offered: Sequence[VmSize]) -> VmSize:
    """The size as the region offers it, with GPUs.

    Raises:
        PreconditionError: it is not offered, or has none.
    """
    entry = catalogue.check_offered(size, offered, setting="compute.size")
    if entry.gpus == 0:
        raise PreconditionError(f"the size '{size}' has no GPU", hint="choose one with a GPU under compute.size")
    return entry


# -- cores -------------------------------------------------------------------------------------------------------------


def check_training_quota(session: Session, cluster: Cluster, size: VmSize, nodes: int) -> tuple[str, ...]:
    """Refuse a training that could never begin; what only has to wait is a warning.

    Args:
        session: the workspace.
        cluster: the one that trains.
        size: of its nodes.
        nodes: of one training.

    Raises:
        PreconditionError: the cluster may not grow so large, or its family's limit is too low.
    """
    check_nodes(cluster, nodes)
    try:
        rows = usages(session)
        own = computes.nodes(session, cluster.name) if cluster.state != NOT_THERE else 0
    except AzureError as error:
        return (f"the quota is not known: {error.message}; without enough of it the job waits in the queue",)
    return judge_training_quota(cluster, size, nodes, rows, own=own * size.cores)


def check_nodes(cluster: Cluster, nodes: int) -> None:
    """Refuse more nodes than the cluster may have.

    Raises:
        PreconditionError: with both numbers.
    """
    if nodes > cluster.max_nodes:
        raise PreconditionError(
            f"num_nodes_finetune is {nodes}, and the cluster '{cluster.name}' has at most {cluster.max_nodes} node(s)",
            hint="raise the cluster's maximum, or name another under compute.name in mlops.yaml",
        )


def judge_training_quota(
    cluster: Cluster, size: VmSize, nodes: int, rows: Sequence[Usage], *, own: int
) -> tuple[str, ...]:
    """What the quota says of one training: nothing, that it has to wait, or that it could never begin.

    Args:
        cluster: the one that trains.
        size: of its nodes.
        nodes: of one training.
        rows: the region's quota.
        own: cores that the cluster holds at this moment.

    Raises:
        PreconditionError: its family's limit is too low.
    """
    needs = quota.training_needs(size, nodes)
    low = is_low_priority(cluster)
    row = quota.low_priority(rows) if low else quota.of_family(rows, size.family)
    if row is None or row.limit is None or row.used - own + needs.cores <= row.limit:
        return ()
    short = quota.Shortage(
        size=size.name, needed=needs.cores, used=0, limit=row.limit, family=row.family, setting=needs.setting
    )
    if not short.missing:
        free = f"{row.used} of {row.limit} vCPUs of '{row.family}' are in use"
        return (f"{free}; the job waits until {needs.cores} are free",)
    if cluster.state == NOT_THERE and not low:
        try:
            instead = judge_training_quota(replace(cluster, tier="LowPriority"), size, nodes, rows, own=own)
            return (f"{short.sentence}; LowPriority is tried instead", *instead)
        except PreconditionError:
            pass  # what Dedicated lacks is what is asked for
    raise PreconditionError(short.sentence, hint=short.hint)
