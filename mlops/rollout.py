"""The rollout: a model version into the idle slot, through the gate, into traffic; and back.

Decisions are pure functions; :func:`deploy` and :func:`rollback` put the calls around them. Traffic never rests on a
slot that has not passed its gate, unless a person skipped the gate with a reason.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from mlops import catalogue, gate
from mlops.azure import endpoints, models
from mlops.endpoint import scorer
from mlops.errors import GateFailed, MlopsError, PreconditionError
from mlops.resources import MANAGED_BY, MANAGED_TAG, Deployment, Endpoint, ModelVersion
from mlops.settings import SLOTS

if TYPE_CHECKING:
    from mlops.azure.session import Session
    from mlops.settings import Settings

KIND_TAG = "mlops-kind"
CREATED_TAG = "mlops-created"
VERSION_TAG = "model-version"
SUCCEEDED = "succeeded"


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
    """

    endpoint: str
    creates_endpoint: bool
    slot: str
    live: str | None
    why: str
    before: Mapping[str, int]
    steps: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a deploy or a rollback did."""

    endpoint: str
    slot: str
    model: str
    version: str
    traffic: Mapping[str, int]
    before: Mapping[str, int]
    scoring_url: str | None
    changed: bool
    report: gate.Report | None = None
    report_folder: str | None = None
    skipped_gate: str | None = None
    note: str = ""


def choose_slot(endpoint: Endpoint | None, deployments: Sequence[Deployment]) -> tuple[str, str | None, str]:
    """The idle slot, the live one, and why.

    Raises:
        PreconditionError: traffic is split, or rests on something that is no slot: nobody knows what is live.
    """
    live = endpoint.live if endpoint else ()
    if len(live) > 1:
        shares = ", ".join(f"{name} {endpoint.traffic[name]} %" for name in live) if endpoint else ""
        raise PreconditionError(
            f"the traffic is split ({shares}), so no slot is idle", hint="mlops rollback gives all of it to one slot"
        )
    standing = {item.name for item in deployments}
    if live and live[0] not in SLOTS:
        return SLOTS[0], live[0], f"'{live[0]}' is live and is no slot"
    if live:
        idle = SLOTS[1 - SLOTS.index(live[0])]
        return idle, live[0], f"{live[0]} is live"
    free = [slot for slot in SLOTS if slot not in standing]
    if free:
        return free[0], None, "nothing is live and this slot is empty"
    oldest = min(deployments, key=lambda item: item.created or datetime.min.replace(tzinfo=UTC))
    slot = oldest.name if oldest.name in SLOTS else SLOTS[0]
    return slot, None, "nothing is live and this slot is the older one"


def make_plan(settings: Settings, name: str, endpoint: Endpoint | None, deployments: Sequence[Deployment]) -> Plan:
    """Decide where a version goes.

    Raises:
        PreconditionError: see :func:`choose_slot`; or somebody else changes the endpoint.
    """
    if endpoint is not None and endpoint.state.lower() not in (SUCCEEDED, "failed"):
        raise PreconditionError(
            f"the endpoint '{name}' is '{endpoint.state}': somebody else is changing it", hint="try again in a minute"
        )
    slot, live, why = choose_slot(endpoint, deployments)
    return Plan(
        endpoint=name,
        creates_endpoint=endpoint is None,
        slot=slot,
        live=live,
        why=why,
        before={key: share for key, share in (endpoint.traffic if endpoint else {}).items() if share},
        steps=tuple(settings.rollout.steps) if live else (100,),
    )


def traffic_at(plan: Plan, share: int) -> dict[str, int]:
    """The traffic map with ``share`` per cent on the new slot; it sums to 100."""
    if plan.live is None:
        return {plan.slot: 100}
    return {name: value for name, value in {plan.slot: share, plan.live: 100 - share}.items() if value}


def other_slot(endpoint: Endpoint, deployments: Sequence[Deployment]) -> Deployment:
    """The slot that a rollback without a version goes to.

    Raises:
        PreconditionError: nothing is there to go back to.
    """
    live = endpoint.live
    ready = [item for item in deployments if item.state.lower() == SUCCEEDED]
    if len(live) == 1:
        ready = [item for item in ready if item.name != live[0]]
    elif live:  # traffic is split, a rollout stopped half way: back to the slot that had most
        ready = sorted(ready, key=lambda item: -endpoint.traffic.get(item.name, 0))
    if not ready:
        raise PreconditionError(
            f"'{endpoint.name}' has no other slot that stands", hint="mlops rollback VERSION deploys that version again"
        )
    return ready[0]


def preview_name(settings: Settings, now: datetime) -> str:
    """A preview's endpoint name: the prefix and whole seconds."""
    return f"{settings.endpoint.preview_prefix}{int(now.timestamp())}"


def deploy(
    session: Session,
    settings: Settings,
    version: ModelVersion,
    *,
    test_rows: Path,
    preview: bool = False,
    force: bool = False,
    skip_gate: str | None = None,
) -> Outcome:
    """Bring a model version into traffic, behind the gate.

    Args:
        session: the workspace.
        settings: the target's settings.
        version: what to deploy.
        test_rows: the prepared split that the gate draws from.
        preview: on an endpoint of its own.
        force: even if this very version is live.
        skip_gate: the reason why a person skips the gate.

    Raises:
        GateFailed: the gate refused; traffic is as it was.
        PreconditionError: something that must hold does not.
    """
    console = session.console
    check_serving(session, settings, version)
    name = preview_name(settings, datetime.now(UTC)) if preview else settings.endpoint.name
    found = endpoints.get(session, name)
    standing = endpoints.deployments(session, name) if found else []
    plan = make_plan(settings, name, found, standing)
    live = next((item for item in standing if item.name == plan.live), None)
    if live is not None and not force and live.model_version == version.version and live.model == version.name:
        console.say(f"{version.name}:{version.version} is live in {live.name} already")
        return _outcome(plan, version, found, changed=False, slot=live.name, note="was live already")
    console.say(f"{version.name}:{version.version} goes into {plan.slot}: {plan.why}")
    if found is None:
        with console.step(f"Create the endpoint {name}"):
            tags = {
                MANAGED_TAG: MANAGED_BY,
                KIND_TAG: "preview" if preview else "lasting",
                CREATED_TAG: datetime.now(UTC).isoformat(timespec="seconds"),
            }
            description = f"Chat completion: {version.name}"
            found = endpoints.create(
                session, name, description=description, tags=tags, identity=settings.deployment.identity
            )
    try:
        with console.step(f"Deploy to {plan.slot}"):
            endpoints.deploy(session, deployment_spec(settings, plan, version))
        report, folder = None, None
        if skip_gate is None:
            with console.step(f"Gate: {settings.gate.conversations} conversations of {test_rows.stem}") as step:
                report = _gate(session, settings, plan, version, test_rows)
                folder = _write_report(session, settings, plan, report)
                step.note = summary_line(report)
                if not report.passed:
                    step.outcome = "failed"
                    raise _refusal(plan, report, folder)
        else:
            console.warn(f"the gate is skipped: {skip_gate}")
        seen = _move_traffic(session, settings, plan)
    except BaseException:
        _restore(session, plan)
        raise
    outcome = _outcome(plan, version, seen, changed=True, slot=plan.slot, note=plan.why)
    return replace_report(outcome, report, folder, skip_gate)


def replace_report(outcome: Outcome, report: gate.Report | None, folder: Path | None, skipped: str | None) -> Outcome:
    """The outcome with what the gate said."""
    import dataclasses

    return dataclasses.replace(
        outcome, report=report, report_folder=str(folder) if folder else None, skipped_gate=skipped
    )


def check_serving(session: Session, settings: Settings, version: ModelVersion) -> None:
    """Refuse a machine that is retired or off the base model's inference allow-list."""
    size = settings.deployment.instance_type
    catalogue.check_size(size)
    choice = settings.base_model
    if choice.source == "registry":
        base = models.get(session, choice.name, choice.version, registry=choice.registry)
        allowed = catalogue.allowed_sizes(base.tags, base.properties, purpose="inference") if base else None
        catalogue.check_allowed(size, allowed, model=version.name, purpose="inference")


def deployment_spec(settings: Settings, plan: Plan, version: ModelVersion) -> endpoints.DeploymentSpec:
    """The deployment of a version in the plan's slot."""
    wanted = settings.deployment
    return endpoints.DeploymentSpec(
        name=plan.slot,
        endpoint=plan.endpoint,
        model_id=version.id,
        instance_type=wanted.instance_type,
        instance_count=wanted.instance_count,
        environment=settings.root / wanted.environment,
        code=settings.root / wanted.code,
        scoring_script=wanted.scoring_script,
        max_concurrent_requests=wanted.max_concurrent_requests,
        request_timeout_ms=wanted.request_timeout_ms,
        liveness_initial_delay_s=wanted.liveness_initial_delay_s,
        variables=wanted.variables,
        tags={MANAGED_TAG: MANAGED_BY, VERSION_TAG: version.version},
    )


def _gate(session: Session, settings: Settings, plan: Plan, version: ModelVersion, test_rows: Path) -> gate.Report:
    samples = gate.draw(gate.load_rows(test_rows), count=settings.gate.conversations, seed=settings.gate.seed)
    asker = scorer(session, plan.endpoint, timeout_s=settings.gate.timeout_s)
    with session.console.progress() as progress:
        task = progress.add_task("answers", total=len(samples) * (2 if plan.live else 1))
        return gate.evaluate(
            asker,
            settings.gate,
            samples,
            endpoint=plan.endpoint,
            model=f"{version.name}:{version.version}",
            candidate=plan.slot,
            live=plan.live,
            done=lambda: progress.advance(task),
        )


def _write_report(session: Session, settings: Settings, plan: Plan, report: gate.Report) -> Path:
    logs = {}
    if not report.passed:
        for container in endpoints.CONTAINERS:
            with contextlib.suppress(MlopsError):  # a report without logs is better than none
                logs[container] = endpoints.logs(session, plan.endpoint, plan.slot, container=container, lines=500)
    stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S-%f")
    return gate.write(report, settings.home / "reports" / f"{plan.endpoint}-{plan.slot}-{stamp}", logs=logs)


def _refusal(plan: Plan, report: gate.Report, folder: Path) -> GateFailed:
    missed = [
        f"{check.name} is {gate.number(check.measured)}, asked is {gate.threshold(check)}"
        for check in report.checks
        if not check.passed
    ]
    return GateFailed(
        f"the gate refused {report.model} in {plan.slot}; traffic is as it was",
        details=[*missed, f"report and the slot's logs: {folder}"],
        hint=f"the slot stays at 0 % for a look: mlops endpoint logs --slot {plan.slot}",
    )


def summary_line(report: gate.Report) -> str:
    """The gate in one line."""
    found = report.candidate
    return (
        f"exact match {gate.number(found.exact_match)}, ROUGE-L {gate.number(found.rouge_l)}, "
        f"p95 {gate.number(found.p95_ms)} ms"
    )


def _move_traffic(session: Session, settings: Settings, plan: Plan) -> Endpoint:
    seen: Endpoint | None = None
    for share in plan.steps:
        with session.console.step(f"Traffic: {share} % to {plan.slot}"):
            seen = endpoints.set_traffic(session, plan.endpoint, traffic_at(plan, share))
            if share < 100:
                time.sleep(settings.rollout.soak_s)
    if seen is None:
        raise PreconditionError("the rollout has no steps", hint="see rollout.steps in mlops.yaml")
    return seen


def _restore(session: Session, plan: Plan) -> None:
    """Put the recorded traffic back where it was touched; the failure that led here is what the user sees."""
    try:
        found = endpoints.get(session, plan.endpoint)
        if found is not None and {key: share for key, share in found.traffic.items() if share} != dict(plan.before):
            endpoints.set_traffic(session, plan.endpoint, plan.before)
            session.console.warn(f"the traffic of {plan.endpoint} is back at {dict(plan.before) or 'none'}")
    except MlopsError as error:
        session.console.warn(f"the traffic of {plan.endpoint} could not be checked: {error.message}; look at it")


def _outcome(
    plan: Plan, version: ModelVersion, seen: Endpoint | None, *, changed: bool, slot: str, note: str
) -> Outcome:
    return Outcome(
        endpoint=plan.endpoint,
        slot=slot,
        model=version.name,
        version=version.version,
        traffic={key: share for key, share in (seen.traffic if seen else {}).items() if share},
        before=plan.before,
        scoring_url=seen.scoring_url if seen else None,
        changed=changed,
        note=note,
    )


def rollback(session: Session, settings: Settings, *, version: ModelVersion | None, name: str | None = None) -> Outcome:
    """Put the version before, or a named one, back into traffic; no gate, since it has been live or a person says so.

    Raises:
        PreconditionError: there is no endpoint, or nothing to go back to.
    """
    name = name or settings.endpoint.name
    found = endpoints.get(session, name)
    if found is None:
        raise PreconditionError(f"there is no endpoint '{name}'", hint="mlops deploy makes it")
    standing = endpoints.deployments(session, name)
    before = {key: share for key, share in found.traffic.items() if share}
    if version is None:
        goal = other_slot(found, standing)
    else:
        named = [item for item in standing if (item.model, item.model_version) == (version.name, version.version)]
        ready = [item for item in named if item.state.lower() == SUCCEEDED]
        if not ready:
            reason = "a rollback to a version that no slot holds"
            return deploy(session, settings, version, test_rows=Path(), skip_gate=reason)
        goal = max(ready, key=lambda item: found.traffic.get(item.name, 0))
    with session.console.step(f"Traffic: 100 % to {goal.name}"):
        seen = endpoints.set_traffic(session, name, {goal.name: 100})
    return Outcome(
        endpoint=name,
        slot=goal.name,
        model=goal.model,
        version=goal.model_version,
        traffic={key: share for key, share in seen.traffic.items() if share},
        before=before,
        scoring_url=seen.scoring_url,
        changed=before != {goal.name: 100},
        note="back to the slot that still stands",
    )
