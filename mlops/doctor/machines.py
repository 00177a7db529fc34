"""The region's machines: sizes, the cluster, cores for a training beside two slots."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mlops.azure import computes
from mlops.azure.quota import usages
from mlops.config.settings import Compute
from mlops.core.errors import AzureError, MlopsError
from mlops.core.resources import Cluster, Usage, VmSize
from mlops.doctor.facts import Facts
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


def region(facts: Facts) -> Finding:
    """What the region offers to this login."""
    try:
        facts.offered = offered = computes.sizes(facts.session)
    except AzureError as error:
        return doubtful(f"what it offers is not known: {error.message}", "Azure will check the sizes when it is asked")
    with_gpus = sum(1 for size in offered if size.gpus)
    return good(f"it offers {len(offered)} sizes, {with_gpus} of them with GPUs")


def usage(facts: Facts) -> Finding:
    """What of the region's quota is used; read early, judged once the sizes are known."""
    try:
        facts.usages = usages(facts.session)
    except AzureError as error:
        facts.usages = error.message
    return good("read" if not isinstance(facts.usages, str) else "not known")


def cluster(facts: Facts) -> Finding:
    """The cluster that trains: there and well, or still to be made."""
    wanted = facts.settings.compute
    found = computes.get(facts.session, wanted.name)
    facts.cluster = found or planned_cluster(facts.settings)
    check_cluster(facts.cluster)
    if found is not None:
        facts.nodes = computes.nodes(facts.session, found.name)
    if found is None:
        return good(f"'{wanted.name}' is not there; mlops train makes it: {wanted.size}, {wanted.tier}")
    return standing(found, wanted)


def standing(found: Cluster, wanted: Compute) -> Finding:
    """What is said of a cluster that is there and has not failed."""
    said = (
        f"'{found.name}' is '{found.state}': {found.size}, {found.tier}, {found.min_nodes} to {found.max_nodes} nodes"
    )
    if found.state.lower() != "succeeded":
        return doubtful(said, "no job begins on it as it is: look again when that is over; if it stays, delete it")
    if found.size.lower() != wanted.size.lower():
        hint = f"mlops.yaml asks for {wanted.size}: delete the cluster, or name another under compute.name"
        return doubtful(said, hint)
    if found.min_nodes > wanted.min_nodes:
        hint = f"{found.min_nodes} of its nodes stay and are paid for; mlops cleanup --scale-down-clusters ends that"
        return doubtful(said, hint)
    return good(said)


def training_size(facts: Facts) -> Finding:
    """The cluster's size: alive, allowed for the base model, offered, with GPUs."""
    size = facts.cluster.size
    check_trainable(facts.settings, size, facts.base)
    if facts.offered is None:
        return _alive(size, "alive; whether the region offers it is not known")
    facts.training_size = found = check_gpus(size, facts.offered)
    return _alive(size, f"{_size(found)} per node{_for(facts, 'finetune')}")


def serving_size(facts: Facts) -> Finding:
    """The size of a slot's machines: alive, allowed for the base model, offered."""
    wanted = facts.settings.deployment
    size, server = wanted.instance_type, f"served by {wanted.server.name}"
    check_servable(size, facts.base, model=facts.settings.base_model.name)
    if facts.offered is None:
        return _alive(size, f"alive; {server}; whether the region offers it is not known")
    facts.serving_size = found = catalogue.check_offered(size, facts.offered, setting="deployment.instance_type")
    return _alive(size, f"{_size(found)} per machine{_for(facts, 'inference')}; {server}")


def _alive(size: str, said: str) -> Finding:
    soon = catalogue.retires_soon(size)
    if soon is not None:
        return doubtful(f"'{size}' retires on {soon.since}", f"use {soon.instead} from then on, in mlops.yaml")
    return good(f"{size}: {said}")


def _size(found: VmSize) -> str:
    gpus = {0: "no GPU", 1: "1 GPU"}.get(found.gpus, f"{found.gpus} GPUs")
    return f"{found.cores} vCPUs, {gpus}"


def _for(facts: Facts, purpose: str) -> str:
    base = facts.base
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
    held: dict[str, int]

    @property
    def slots(self) -> tuple[quota.Needs, quota.Needs]:
        """Both slots."""
        each = quota.deployment_needs(self.serving, self.instances)
        return each, each

    @property
    def together(self) -> tuple[quota.Needs, ...]:
        """All that a release during a training takes."""
        return quota.all_needs(self.training, self.nodes, self.serving, self.instances, low_priority=self.low_priority)


def cores(facts: Facts) -> Finding | list[Finding]:
    """The quota of the families against one training beside two slots."""
    if facts.training_size is None or facts.serving_size is None:
        return skipped("not looked at: the sizes of the region are not known")
    rows = facts.usages
    if isinstance(rows, str):
        return doubtful(f"it is not known: {rows}", "Azure will check it when it is asked")
    nodes = int(facts.settings.training.parameters.get("num_nodes_finetune", 1))
    low = is_low_priority(facts.cluster)
    own = facts.nodes * facts.training_size.cores
    wanted = Cores(
        training=facts.training_size,
        nodes=nodes,
        serving=facts.serving_size,
        instances=facts.settings.deployment.instance_count,
        low_priority=low,
        held=held_by(facts, 0 if low else own),
    )
    found: list[Finding] = []
    try:
        check_nodes(facts.cluster, nodes)
        warnings = judge_training_quota(facts.cluster, facts.training_size, nodes, rows, own=own)
        found += [doubtful(warning) for warning in warnings]
    except MlopsError as error:
        found.append(bad(f"for a training: {error.message}", error.hint))
    return [*found, *judged(rows, wanted)] if found else judged(rows, wanted) or [enough(rows, wanted)]


def held_by(facts: Facts, nodes: int) -> dict[str, int]:
    """The cores by family that this target holds itself: its slots' and its cluster's."""
    held: dict[str, int] = {}
    sizes = {size.name.lower(): size for size in facts.offered or ()}
    for slot in facts.standing:
        size = sizes.get(slot.instance_type.lower())
        if size is not None:
            needs = quota.deployment_needs(size, slot.instance_count)
            held[size.family] = held.get(size.family, 0) + needs.cores
    if nodes and facts.training_size is not None:
        family = facts.training_size.family
        held[family] = held.get(family, 0) + nodes
    return held


def judged(rows: Sequence[Usage], wanted: Cores) -> list[Finding]:
    """What is short: for both slots a release cannot do without it, for a training beside them it can wait."""
    short = quota.shortages(rows, wanted.slots, held=wanted.held)
    if short:
        return [bad(f"for two slots: {each.sentence}", each.hint) for each in short]
    short = quota.shortages(rows, wanted.together, held=wanted.held)
    return [doubtful(f"for a training beside two slots: {each.sentence}", each.hint) for each in short]


def enough(rows: Sequence[Usage], wanted: Cores) -> Finding:
    """That it suffices, by family."""
    said = []
    families = dict.fromkeys(each.family for each in wanted.together)
    for family in families:
        needed = sum(each.cores for each in wanted.together if each.family == family)
        row = quota.of_family(rows, family)
        of = f" of {row.limit}" if row is not None and row.limit is not None else ""
        said.append(f"{needed}{of} vCPUs of '{family}'")
    return good(f"a training beside two slots takes {' and '.join(said)}")
