"""Quota for one training beside two slots: whether it suffices, and the request where it does not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from mlops.azure import computes, endpoints
from mlops.azure import quota as region
from mlops.azure.session import Session
from mlops.config.settings import SLOTS, Settings
from mlops.core.errors import MlopsError
from mlops.core.resources import Usage, VmSize
from mlops.machines import quota
from mlops.machines.quota import Shortage
from mlops.setup.scope import AzureScope


@dataclass(frozen=True, kw_only=True)
class Capacity:
    """What of the region's quota is short, and what became of earlier requests."""

    short: Sequence[Shortage] = ()
    families: Sequence[str] = ()
    """The name of each shortage's family, as requests name it; empty for the region's total."""
    asked: dict[str, region.Request] = field(default_factory=dict)
    """The newest request of each family."""
    unknown: Sequence[str] = ()
    """Sizes that the region does not offer."""
    problem: str = ""
    """Why it could not be looked at."""
    ask: bool | None = None

    def to_ask(self) -> list[tuple[str, Shortage]]:
        """What to ask for now: families that are short and were not asked for, unless that is wished again."""
        if self.ask is False:
            return []
        return [
            (family, short)
            for family, short in zip(self.families, self.short, strict=True)
            if family and (self.ask or self._news(family, short))
        ]

    def _news(self, family: str, short: Shortage) -> bool:
        before = self.asked.get(family)
        return before is None or before.limit < short.enough


def measure(session: Session, settings: Settings, scope: AzureScope, *, ask: bool | None) -> Capacity:
    """Look at the region's sizes, use and limits; never fatal."""
    try:
        sizes = {size.name.lower(): size for size in computes.sizes(session, scope.region)}
        size_names = (settings.compute.size, settings.deployment.instance_type)
        unknown = list(dict.fromkeys(name for name in size_names if name.lower() not in sizes))
        if unknown:
            return Capacity(unknown=unknown, ask=ask)
        training, serving = (sizes[name.lower()] for name in size_names)
        needs = quota.all_needs(
            training,
            settings.compute.max_nodes,
            serving,
            settings.deployment.instance_count,
            low_priority=settings.compute.tier == "LowPriority",
        )
        usages = region.usages(session, scope.region)
        own_cores = _held(session, settings, serving)
        short = quota.shortages(usages, needs, own={serving.family: own_cores})
        families = [_family(item, (training.family, serving.family)) for item in short]
        requests = region.requests(session, scope.region) if any(families) else []
    except MlopsError as error:
        return Capacity(problem=error.message, ask=ask)
    newest: dict[str, region.Request] = {}
    for item in sorted(requests, key=lambda each: each.submitted):
        newest[next((name for name in families if name.lower() == item.family.lower()), item.family)] = item
    return Capacity(short=short, families=families, asked=newest, ask=ask)


def _held(session: Session, settings: Settings, size: VmSize) -> int:
    """Cores that this target's two slots hold already, which are not needed a second time."""
    try:
        slots = endpoints.deployments(session, settings.endpoint.name)
    except MlopsError:
        return 0  # no workspace or no endpoint yet
    ours = [slot for slot in slots if slot.name in SLOTS and slot.instance_type.lower() == size.name.lower()]
    return sum(quota.deployment_needs(size, slot.instance_count).cores for slot in ours)


def _family(short: Shortage, families: Sequence[str]) -> str:
    row = Usage(family=short.family, used=0, limit=None)
    return next((name for name in families if quota.of_family([row], name)), "")
