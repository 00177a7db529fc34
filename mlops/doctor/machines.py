"""The region's machines: sizes, the cluster, cores for a training beside two slots."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mlops.azure import computes
from mlops.azure.quota import usages
from mlops.config.settings import Compute
from mlops.core.errors import AzureError, MlopsError
from mlops.core.resources import Cluster, Usage, VmSize
from mlops.doctor.context import CheckContext
from mlops.doctor.findings import Finding, bad, doubtful, good, skipped
from mlops.machines import catalogue, quota
from mlops.rollout.preflight import check_servable
from mlops.training.preflight import (
    check_cluster,
    check_gpus,
    check_nodes,
    check_trainable,
    is_low_priority,
    judge_training_quota,
    planned_cluster,
)


def region(context: CheckContext) -> Finding:
    """What the region offers to this login."""
    try:
        context.offered = offered = computes.sizes(context.session)
    except AzureError as error:
        return doubtful(f"what it offers is not known: {error.message}", "Azure will check the sizes when it is asked")
    with_gpus = sum(1 for size in offered if size.gpus)
    return good(f"it offers {len(offered)} sizes, {with_gpus} of them with GPUs")


def usage(context: CheckContext) -> Finding:
    """What of the region's quota is used; read early, judged once the sizes are known."""
    try:
        context.usages = usages(context.session)
    except AzureError as error:
        context.usages = error.message
    return good("read" if not isinstance(context.usages, str) else "not known")


def cluster(context: CheckContext) -> Finding:
    """The cluster that trains: there and well, or still to be made."""
    settings = context.settings.compute
    existing = computes.get(context.session, settings.name)
    context.cluster = existing or planned_cluster(context.settings)
    check_cluster(context.cluster)
    if existing is not None:
        context.nodes = computes.nodes(context.session, existing.name)
    if existing is None:
        return good(f"'{settings.name}' is not there; mlops train makes it: {settings.size}, {settings.tier}")
    return cluster_finding(existing, settings)


def cluster_finding(existing: Cluster, settings: Compute) -> Finding:
    """What is said of a cluster that is there and has not failed."""
    nodes = f"{existing.min_nodes} to {existing.max_nodes} nodes"
    text = f"'{existing.name}' is '{existing.state}': {existing.size}, {existing.tier}, {nodes}"
    if existing.state.lower() != "succeeded":
        return doubtful(text, "no job begins on it as it is: look again when that is over; if it stays, delete it")
    if existing.size.lower() != settings.size.lower():
        hint = f"mlops.yaml asks for {settings.size}: delete the cluster, or name another under compute.name"
        return doubtful(text, hint)
    if existing.min_nodes > settings.min_nodes:
        hint = f"{existing.min_nodes} of its nodes stay and are paid for; mlops cleanup --scale-down-clusters ends that"
        return doubtful(text, hint)
    return good(text)


def training_size(context: CheckContext) -> Finding:
    """The cluster's size: alive, allowed for the base model, offered, with GPUs."""
    size = context.cluster.size
    check_trainable(context.settings, size, context.base)
    if context.offered is None:
        return _alive(size, "alive; whether the region offers it is not known")
    context.training_size = size_entry = check_gpus(size, context.offered)
    return _alive(size, f"{_size(size_entry)} per node{_for(context, 'finetune')}")


def serving_size(context: CheckContext) -> Finding:
    """The size of a slot's machines: alive, allowed for the base model, offered."""
    settings = context.settings.deployment
    size, server = settings.instance_type, f"served by {settings.server.name}"
    check_servable(size, context.base, model=context.settings.base_model.name)
    if context.offered is None:
        return _alive(size, f"alive; {server}; whether the region offers it is not known")
    context.serving_size = size_entry = catalogue.check_offered(
        size, context.offered, setting="deployment.instance_type"
    )
    return _alive(size, f"{_size(size_entry)} per machine{_for(context, 'inference')}; {server}")


def _alive(size: str, text: str) -> Finding:
    soon = catalogue.retires_soon(size)
    if soon is not None:
        return doubtful(f"'{size}' retires on {soon.since}", f"use {soon.instead} from then on, in mlops.yaml")
    return good(f"{size}: {text}")


def _size(size: VmSize) -> str:
    gpus = {0: "no GPU", 1: "1 GPU"}.get(size.gpus, f"{size.gpus} GPUs")
    return f"{size.cores} vCPUs, {gpus}"


def _for(context: CheckContext, purpose: str) -> str:
    base = context.base
    if base is None or catalogue.allowed_sizes(base.tags, base.properties, purpose=purpose) is None:
        return ""
    return f", on the {purpose} allow-list of '{base.name}'"


# -- cores -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Cores:
    """What a training beside two slots takes, and what of it is held already."""

    training: VmSize
    nodes: int
    serving: VmSize
    instances: int
    low_priority: bool
    own: dict[str, int]

    @property
    def slots(self) -> tuple[quota.Needs, quota.Needs]:
        """Both slots."""
        each = quota.deployment_needs(self.serving, self.instances)
        return each, each

    @property
    def together(self) -> tuple[quota.Needs, ...]:
        """All that a release during a training takes."""
        return quota.all_needs(self.training, self.nodes, self.serving, self.instances, low_priority=self.low_priority)


def cores(context: CheckContext) -> Finding | list[Finding]:
    """The quota of the families against one training beside two slots."""
    if context.training_size is None or context.serving_size is None:
        return skipped("not looked at: the sizes of the region are not known")
    rows = context.usages
    if isinstance(rows, str):
        return doubtful(f"it is not known: {rows}", "Azure will check it when it is asked")
    nodes = int(context.settings.training.parameters.get("num_nodes_finetune", 1))
    low = is_low_priority(context.cluster)
    own = context.nodes * context.training_size.cores
    demand = Cores(
        training=context.training_size,
        nodes=nodes,
        serving=context.serving_size,
        instances=context.settings.deployment.instance_count,
        low_priority=low,
        own=own_cores(context, 0 if low else own),
    )
    findings: list[Finding] = []
    try:
        check_nodes(context.cluster, nodes)
        warnings = judge_training_quota(context.cluster, context.training_size, nodes, rows, own=own)
        findings += [doubtful(warning) for warning in warnings]
    except MlopsError as error:
        findings.append(bad(f"for a training: {error.message}", error.hint))
    return [*findings, *judged(rows, demand)] if findings else judged(rows, demand) or [enough(rows, demand)]


def own_cores(context: CheckContext, nodes: int) -> dict[str, int]:
    """The cores by family that this target holds itself: its slots' and its cluster's."""
    by_family: dict[str, int] = {}
    sizes = {size.name.lower(): size for size in context.offered or ()}
    for slot in context.deployments:
        size = sizes.get(slot.instance_type.lower())
        if size is not None:
            needs = quota.deployment_needs(size, slot.instance_count)
            by_family[size.family] = by_family.get(size.family, 0) + needs.cores
    if nodes and context.training_size is not None:
        family = context.training_size.family
        by_family[family] = by_family.get(family, 0) + nodes
    return by_family


def judged(rows: Sequence[Usage], demand: Cores) -> list[Finding]:
    """What is short: for both slots a release cannot do without it, for a training beside them it can wait."""
    short = quota.shortages(rows, demand.slots, own=demand.own)
    if short:
        return [bad(f"for two slots: {each.sentence}", each.hint) for each in short]
    short = quota.shortages(rows, demand.together, own=demand.own)
    return [doubtful(f"for a training beside two slots: {each.sentence}", each.hint) for each in short]


def enough(rows: Sequence[Usage], demand: Cores) -> Finding:
    """That it suffices, by family."""
    amounts = []
    families = dict.fromkeys(each.family for each in demand.together)
    for family in families:
        needed = sum(each.cores for each in demand.together if each.family == family)
        row = quota.of_family(rows, family)
        of = f" of {row.limit}" if row is not None and row.limit is not None else ""
        amounts.append(f"{needed}{of} vCPUs of '{family}'")
    return good(f"a training beside two slots takes {' and '.join(amounts)}")
