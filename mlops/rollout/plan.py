"""Which slot is live, which is idle, and what a rollout will do: pure functions over what Azure holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from mlops.config.settings import SLOTS
from mlops.core.errors import PreconditionError
from mlops.core.resources import Deployment, Endpoint, ModelVersion

if TYPE_CHECKING:
    from mlops.config.settings import Settings

SETTLED = ("succeeded", "failed", "canceled")
"""States in which nobody is changing an endpoint or a slot."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a deploy will do.

    Attributes:
        endpoint: its name.
        creates_endpoint: there is none yet.
        slot: where the new version goes.
        live: the slot with the traffic, if any.
        why: the reason for the choice, for people.
        before: the traffic map to go back to.
        steps: shares of traffic for the new slot, in turn.
        mirror: per cent of live requests that the new slot gets copies of before the first step; 0 is none.
    """

    endpoint: str
    creates_endpoint: bool
    slot: str
    live: str | None
    why: str
    before: Mapping[str, int]
    steps: tuple[int, ...]
    mirror: int = 0


def choose_slot(endpoint: Endpoint | None, deployments: Sequence[Deployment]) -> tuple[str, str | None, str]:
    """The idle slot, the live one, and why.

    Raises:
        PreconditionError: traffic is split: nobody knows what is live.
    """
    live = endpoint.live if endpoint else ()
    if len(live) > 1:
        shares = ", ".join(f"{name} {endpoint.traffic[name]} %" for name in live) if endpoint else ""
        raise PreconditionError(
            f"the traffic is split ({shares}), so no slot is idle", hint="mlops rollback gives all of it to one slot"
        )
    taken = {item.name for item in deployments}
    if live and live[0] not in SLOTS:
        return SLOTS[0], live[0], f"'{live[0]}' is live and is no slot"
    if live:
        idle = SLOTS[1 - SLOTS.index(live[0])]
        return idle, live[0], f"{live[0]} is live"
    free = [slot for slot in SLOTS if slot not in taken]
    if free:
        return free[0], None, "nothing is live and this slot is empty"
    oldest = min(deployments, key=last_changed)
    slot = oldest.name if oldest.name in SLOTS else SLOTS[0]
    return slot, None, "nothing is live and this slot is the older one"


def make_plan(settings: Settings, name: str, endpoint: Endpoint | None, deployments: Sequence[Deployment]) -> Plan:
    """Decide where a version goes.

    Raises:
        PreconditionError: see :func:`choose_slot`; or somebody else changes the endpoint.
    """
    if endpoint is not None and endpoint.state.lower() not in SETTLED:
        raise PreconditionError(
            f"the endpoint '{name}' is '{endpoint.state}': somebody else is changing it", hint="try again in a minute"
        )
    slot, live, why = choose_slot(endpoint, deployments)
    busy = next((item for item in deployments if item.name == slot and item.state.lower() not in SETTLED), None)
    if busy is not None:
        raise PreconditionError(
            f"the slot '{slot}' of '{name}' is '{busy.state}': another deploy is under way",
            hint="try again when it is over; mlops endpoint status shows it",
        )
    return Plan(
        endpoint=name,
        creates_endpoint=endpoint is None,
        slot=slot,
        live=live,
        why=why,
        before={key: share for key, share in (endpoint.traffic if endpoint else {}).items() if share},
        steps=tuple(settings.rollout.steps) if live else (100,),
        mirror=settings.rollout.mirror_percent if live else 0,
    )


def traffic_at(plan: Plan, share: int) -> dict[str, int]:
    """The traffic map with ``share`` per cent on the new slot; it sums to 100."""
    if plan.live is None:
        return {plan.slot: 100}
    return {name: value for name, value in {plan.slot: share, plan.live: 100 - share}.items() if value}


def last_changed(slot: Deployment) -> datetime:
    """When a slot was last deployed to."""
    return slot.changed or slot.created or datetime.min.replace(tzinfo=UTC)


def holds(slot: Deployment | None, version: ModelVersion) -> bool:
    """Whether a slot stands with that version."""
    return slot is not None and (slot.model, slot.model_version) == (version.name, version.version)


def preview_name(settings: Settings, now: datetime) -> str:
    """A preview's endpoint name: the prefix and whole seconds."""
    return f"{settings.endpoint.preview_prefix}{int(now.timestamp())}"
