"""Which model versions nobody needs, and which clusters keep nodes for nobody: pure functions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

from mlops.cleanup.decisions import SETTLED, Action, Decision, Rollouts
from mlops.cleanup.inventory import EndpointState
from mlops.cleanup.prices import Saving, saving
from mlops.core.resources import Cluster, ModelVersion, kept, made_here

PRICED_TIER = "dedicated"
"""The prices are those of machines that nobody takes away; low priority has others."""


def decide_versions(
    versions: Sequence[ModelVersion],
    states: Sequence[EndpointState],
    rollouts: Sequence[Rollouts],
    *,
    keep: int,
    now: datetime,
) -> list[Decision]:
    """Which versions of a model nobody needs: beyond the newest, served nowhere, and not what a rollback goes to.

    Args:
        versions: of one model, newest first.
        states: every endpoint of the workspace.
        rollouts: the records of every endpoint of ours.
        keep: how many of the newest stay.
        now: the present.
    """
    blind = [state.endpoint.name for state in states if state.problem]
    blind += ["an endpoint's records" for item in rollouts if item.problem]
    serves = {
        (slot.model.lower(), slot.model_version): f"served by {slot.endpoint}/{slot.name}"
        for state in states
        for slot in state.slots
    }
    rollback_targets = {(model.lower(), version) for item in rollouts for model, version in item.released}
    begun = {(model.lower(), version) for item in rollouts for model, version in item.begun}
    decisions = []
    for index, version in enumerate(versions):
        key = (version.name.lower(), version.version)
        why = next(
            (
                reason
                for holds, reason in (
                    (not made_here(version.tags), "not made by this repository"),
                    (kept(version.tags), "tagged keep"),
                    (index < keep, f"one of the newest {keep}"),
                    (key in serves, serves.get(key, "")),
                    (key in begun, "an unfinished rollout is about it"),
                    (key in rollback_targets, "released lately: a rollback may go to it"),
                    (bool(blind), f"it is not known what serves: {', '.join(blind[:2])}"),
                )
                if holds
            ),
            None,
        )
        age = (now - version.created).total_seconds() if version.created else None
        decisions.append(
            Decision(
                kind="version",
                name=f"{version.name}:{version.version}",
                age_s=age,
                action="keep" if why else "archive",
                why=why or f"beyond the newest {keep}, not in use",
            )
        )
    return decisions


def decide_cluster(
    cluster: Cluster, *, own: str, min_nodes: int, busy: str | None, prices_per_hour: Mapping[str, float]
) -> Decision | None:
    """Whether an idle cluster was left with nodes that it always keeps; None for a cluster that keeps none.

    Args:
        cluster: the cluster.
        own: the name of the settings' cluster.
        min_nodes: the minimum that the settings ask for it.
        busy: why it is not idle; None where it is.
        prices_per_hour: of one machine, by size.
    """
    mine = cluster.name.lower() == own.lower()
    target = min_nodes if mine else 0
    if cluster.min_nodes <= target:
        return None

    def decision(action: Action, why: str, spared: Saving | None = None) -> Decision:
        return Decision(kind="cluster", name=cluster.name, action=action, why=why, saving=spared or Saving())

    if not (mine or made_here(cluster.tags)):
        return decision("keep", "not made by this repository")
    if kept(cluster.tags):
        return decision("keep", "tagged keep")
    if cluster.state.lower() not in SETTLED:
        return decision("keep", f"it is '{cluster.state}'")
    if busy:
        return decision("keep", busy)
    priced = prices_per_hour if cluster.tier.lower() == PRICED_TIER else {}
    spared = saving([(cluster.size, cluster.min_nodes - target)], priced)
    return decision("scale_down", f"idle, always keeps {cluster.min_nodes} nodes", spared)
