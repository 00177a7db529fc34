"""What a deploy would do, without doing it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from mlops import gate
from mlops.azure import endpoints
from mlops.core.resources import ModelVersion
from mlops.ledger import Ledger, unfinished
from mlops.rollout import preflight
from mlops.rollout.plan import Plan, holds, make_plan, preview_name
from mlops.rollout.slot import deployment_spec

if TYPE_CHECKING:
    from mlops.azure.session import Session
    from mlops.config.settings import Settings


@dataclass(frozen=True, kw_only=True)
class DryRun:
    """A plan, what it needs, and what is worth knowing before."""

    plan: Plan
    preflight: preflight.Preflight
    skips_gate: bool
    notes: tuple[str, ...] = ()


def dry_run(
    session: Session, settings: Settings, version: ModelVersion, *, preview: bool, skip_gate: bool, force: bool = False
) -> DryRun:
    """Plan a deploy as :func:`~mlops.rollout.deploy.deploy` would; nothing is changed and no lease is taken.

    Raises:
        PreconditionError: what the deploy would be refused for.
    """
    gate.validate(settings.gate)
    name = preview_name(settings, datetime.now(UTC)) if preview else settings.endpoint.name
    endpoint = endpoints.get(session, name)
    deployments = endpoints.deployments(session, name) if endpoint else []
    notes: list[str] = []
    open_ = [] if preview else unfinished(Ledger(session, name).read())
    if open_:
        begun = open_[0]
        since = f"{begun.by} since {begun.at:%Y-%m-%d %H:%M} UTC"
        notes.append(f"a rollout by {since} has not ended; if its runner is gone, what it left is looked after first")
    plan = make_plan(settings, name, endpoint, deployments)
    if skip_gate:
        plan = dataclasses.replace(plan, steps=(100,), mirror=0)
    live = next((item for item in deployments if item.name == plan.live), None)
    if not force and live is not None and holds(live, version):
        notes.append(f"this version is live in {live.name} already: nothing would be done without --force")
    checked = preflight.check(session, settings, version, plan, deployments, skips_gate=skip_gate)
    deployment_spec(settings, plan, version, probes=checked.probes)
    return DryRun(plan=plan, preflight=checked, skips_gate=skip_gate, notes=(*notes, *checked.warnings))
