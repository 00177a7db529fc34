"""What is stale, and why: pure functions over everything that the workspace holds.

Protected whatever else holds: what this repository did not make, what is tagged ``keep``, the lasting endpoint, a slot
with traffic or mirrored traffic, and whatever a rollout is under way on. A preview has traffic on its only slot by
construction, so its traffic says nothing of its use: for previews age decides, and ``keep`` protects one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Literal

from mlops.cleanup.inventory import EndpointState, created, in_words, share
from mlops.cleanup.prices import Saving, saving
from mlops.core.resources import KIND_TAG, Deployment, Endpoint, kept, made_here

Kind = Literal["endpoint", "slot", "version", "cluster"]
Action = Literal["delete", "archive", "scale_down", "keep"]
SETTLED = ("succeeded", "failed", "canceled")


@dataclass(frozen=True, kw_only=True)
class Rules:
    """When something is stale.

    Attributes:
        lasting: the lasting endpoint's name.
        prefix: how previews are named.
        older_than: the age of a preview.
        grace: how long a slot without traffic is kept.
        failed_after: how long a failed deployment is left, to be looked at.
        now: the present.
        prices_per_hour: of one machine, by size.
    """

    lasting: str
    prefix: str
    older_than: timedelta
    grace: timedelta
    failed_after: timedelta
    now: datetime
    prices_per_hour: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Rollouts:
    """What an endpoint's records say.

    Attributes:
        locked: somebody holds the endpoint's lease at this moment.
        unfinished: the last rollout has no end on record.
        idle_since: when slots last lost their traffic.
        released: model and version of what was released, newest first.
        begun: model and version that the unfinished rollout is about.
        problem: why the records could not be read.
    """

    locked: bool = False
    unfinished: bool = False
    idle_since: Mapping[str, datetime] = field(default_factory=dict)
    released: tuple[tuple[str, str], ...] = ()
    begun: tuple[tuple[str, str], ...] = ()
    problem: str | None = None

    @property
    def obstacle(self) -> str | None:
        """Why nothing of the endpoint may be touched now; None where it may."""
        if self.problem:
            return f"its rollouts are not known: {self.problem}"
        if self.locked:
            return "a rollout is under way"
        if self.unfinished:
            return "its last rollout has no end; mlops deploy ends it"
        return None


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What becomes of one thing, and why."""

    kind: Kind
    name: str
    action: Action
    why: str
    endpoint: str | None = None
    age_s: float | None = None
    saving: Saving = field(default_factory=Saving)

    @property
    def stale(self) -> bool:
        """Whether it goes."""
        return self.action != "keep"

    @property
    def title(self) -> str:
        """How people name it."""
        return f"{self.endpoint}/{self.name}" if self.kind == "slot" else self.name


def decide(state: EndpointState, rollouts: Rollouts, rules: Rules) -> list[Decision]:
    """An endpoint, and its slots one by one where it stays and is ours to look into."""
    own = decide_endpoint(state, rollouts, rules)
    if own.stale or untouchable(state.endpoint) or state.problem:
        return [own]
    return [own, *(decide_slot(slot, state.endpoint, rollouts, rules) for slot in state.slots)]


def untouchable(endpoint: Endpoint) -> str | None:
    """Why an endpoint is left alone with all that it has; None where it need not be."""
    if not made_here(endpoint.tags):
        return "not made by this repository"
    return "tagged keep" if kept(endpoint.tags) else None


def decide_endpoint(state: EndpointState, rollouts: Rollouts, rules: Rules) -> Decision:
    """Whether an endpoint is stale: a preview of ours past its age."""
    endpoint = state.endpoint
    created_at = created(endpoint, rules.prefix)
    age = rules.now - created_at if created_at else None

    def decision(action: Action, why: str) -> Decision:
        machines = [(slot.instance_type, slot.instance_count) for slot in state.slots] if action != "keep" else []
        return Decision(
            kind="endpoint",
            name=endpoint.name,
            action=action,
            why=why,
            age_s=age.total_seconds() if age is not None else None,
            saving=saving(machines, rules.prices_per_hour),
        )

    protected = untouchable(endpoint) or _protected_preview(state, rules)
    if protected:
        return decision("keep", protected)
    if age is None:
        return decision("keep", "its age is not known")
    if age < rules.older_than:
        return decision("keep", "a young preview")
    if rollouts.locked or rollouts.problem:  # one without an end is no reason: nobody will come back to an old preview
        return decision("keep", rollouts.obstacle or "")
    return decision("delete", f"a preview older than {in_words(rules.older_than)}")


def _protected_preview(state: EndpointState, rules: Rules) -> str | None:
    endpoint = state.endpoint
    if endpoint.name.lower() == rules.lasting.lower():
        return "the lasting endpoint"
    if endpoint.tags.get(KIND_TAG) != "preview":
        return "not a preview"
    if state.problem:
        return f"its slots are not known: {state.problem}"
    if endpoint.state.lower() not in SETTLED:
        return f"it is '{endpoint.state}'"
    for slot in state.slots:
        if not made_here(slot.tags):
            return f"its slot {slot.name} was not made by this repository"
        if kept(slot.tags):
            return f"its slot {slot.name} is tagged keep"
        if slot.state.lower() not in SETTLED:
            return f"its slot {slot.name} is '{slot.state}'"
    return None


def decide_slot(slot: Deployment, endpoint: Endpoint, rollouts: Rollouts, rules: Rules) -> Decision:
    """Whether a slot is stale: failed, or without traffic past its grace."""
    since = _idle_since(slot, rollouts)
    age = rules.now - since if since and not share(endpoint.traffic, slot.name) else None

    def decision(action: Action, why: str) -> Decision:
        machines = [(slot.instance_type, slot.instance_count)] if action != "keep" else []
        return Decision(
            kind="slot",
            name=slot.name,
            endpoint=endpoint.name,
            action=action,
            why=why,
            age_s=age.total_seconds() if age is not None else None,
            saving=saving(machines, rules.prices_per_hour),
        )

    protected = _protected_slot(slot, endpoint, rollouts)
    if protected:
        return decision("keep", protected)
    if age is None:
        return decision("keep", "not known since when it is idle")
    if slot.state.lower() == "failed":
        if age < rules.failed_after:
            return decision("keep", f"failed, kept for {in_words(rules.failed_after)} to be looked at")
        return decision("delete", "failed")
    if age < rules.grace:
        return decision("keep", f"idle, has {in_words(rules.grace)} of grace")
    return decision("delete", f"idle, past {in_words(rules.grace)} of grace")


def _protected_slot(slot: Deployment, endpoint: Endpoint, rollouts: Rollouts) -> str | None:
    live, mirrored = share(endpoint.traffic, slot.name), share(endpoint.mirror, slot.name)
    if live:
        return f"live, {live} %"
    if mirrored:
        return f"gets {mirrored} % of copies"
    unfit = untouchable(endpoint)
    if unfit:
        return f"its endpoint is {unfit}"
    if not made_here(slot.tags):
        return "not made by this repository"
    if kept(slot.tags):
        return "tagged keep"
    for what, state in (("its endpoint", endpoint.state), ("it", slot.state)):
        if state.lower() not in SETTLED:
            return f"{what} is '{state}'"
    return rollouts.obstacle


def _idle_since(slot: Deployment, rollouts: Rollouts) -> datetime | None:
    """When a slot last lost its traffic, or was deployed to if that is later: a new version has its own grace."""
    recorded_loss = next(
        (moment for name, moment in rollouts.idle_since.items() if name.lower() == slot.name.lower()), None
    )
    known = [moment for moment in (recorded_loss, slot.changed or slot.created) if moment is not None]
    return max(known, default=None)
