"""The rollout: a model version into the idle slot, through the gate, into traffic; and back.

:mod:`mlops.slots` decides, :func:`deploy` and :func:`rollback` put the calls around it. Traffic never rests on a slot
that has not passed its gate, unless a person skipped the gate with a reason. What has passed is on record in the tags
of the model version, which a rollback asks.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from mlops import catalogue, gate
from mlops.azure import endpoints, models
from mlops.endpoint import scorer
from mlops.errors import AzureError, Interrupted, MlopsError, PreconditionError, UsageError
from mlops.interrupts import stay_interruptible
from mlops.payload import check_text
from mlops.resources import MANAGED_BY, MANAGED_TAG, Deployment, Endpoint, ModelVersion
from mlops.slots import SETTLED, Plan, make_plan, other_slot, preview_name, traffic_at

if TYPE_CHECKING:
    from mlops.azure.session import Session
    from mlops.settings import Settings

KIND_TAG = "mlops-kind"
CREATED_TAG = "mlops-created"
VERSION_TAG = "model-version"
GATE_TAG = "gate-"
"""With the endpoint's name: how a model version came past that endpoint's gate."""
SKIPPED_TAG = "gate-skipped"
SETTLE_S = 600.0
LOG_LINES = 60
TAG_CHARACTERS = 256


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
    samples = [] if skip_gate is not None else draw_samples(settings, test_rows)
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
            _deploy(session, deployment_spec(settings, plan, version, skip_gate))
        report, folder = None, None
        if skip_gate is None:
            with console.step(f"Gate: {len(samples)} conversations of {test_rows.stem}") as step:
                report = _gate(session, settings, plan, version, samples)
                folder = _write_report(session, settings, plan, report)
                step.note = gate.summary_line(report)
                if not report.passed:
                    step.outcome = "failed"
                    console.summary(gate.markdown(report))
                    console.outputs({"report": str(folder)})
                    raise gate.refusal(report, folder)
        else:
            console.warn(f"the gate is skipped: {skip_gate}")
        _check_unchanged(session, plan, version, plan.before)
        _record(session, name, version, skip_gate)
        seen = _move_traffic(session, settings, plan, version)
    except KeyboardInterrupt:
        known = _restore(session, plan, version)
        hint = f"mlops deploy {version.version} begins again"
        raise Interrupted("interrupted" + ("; the traffic is as it was" if known else ""), hint=hint) from None
    except BaseException:
        _restore(session, plan, version)
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


def draw_samples(settings: Settings, test_rows: Path) -> list[gate.Sample]:
    """The gate's conversations, and a look at its request before anything is paid for.

    Raises:
        UsageError: gate.parameters are none that the server takes.
    """
    samples = gate.draw(gate.load_rows(test_rows), count=settings.gate.conversations, seed=settings.gate.seed)
    request = json.dumps(gate.payload(samples[0], settings.gate.parameters)).encode()
    for problem in check_text(request, name="gate.parameters")[1]:
        if problem.field.startswith("input_data.parameters"):
            field = problem.field.removeprefix("input_data.")
            raise UsageError(f"gate.{field} in mlops.yaml {problem.message}")
    return samples


def deployment_spec(
    settings: Settings, plan: Plan, version: ModelVersion, skip_gate: str | None = None
) -> endpoints.DeploymentSpec:
    """The deployment of a version in the plan's slot."""
    wanted = settings.deployment
    for path in (wanted.environment, wanted.code / wanted.scoring_script):
        if not (settings.root / path).is_file():
            raise UsageError(f"there is no '{path}' in '{settings.root}'", hint="see deployment in mlops.yaml")
    skipped = {SKIPPED_TAG: skip_gate[:TAG_CHARACTERS]} if skip_gate else {}
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
        tags={MANAGED_TAG: MANAGED_BY, VERSION_TAG: version.version, **skipped},
    )


def _deploy(session: Session, spec: endpoints.DeploymentSpec) -> None:
    """Deploy; where that fails, the end of the server's log says why."""
    try:
        endpoints.deploy(session, spec)
    except (AzureError, PreconditionError) as error:
        with contextlib.suppress(MlopsError):  # there may be no server yet, or somebody else's
            standing = endpoints.deployments(session, spec.endpoint)
            if any(item.name == spec.name and item.state.lower() == "failed" for item in standing):
                log = endpoints.logs(session, spec.endpoint, spec.name, lines=LOG_LINES)
                error.details = (*error.details, *log.rstrip().splitlines()[-LOG_LINES:])
        raise


def _check_unchanged(session: Session, plan: Plan, version: ModelVersion, traffic: Mapping[str, int]) -> None:
    """Traffic moves only to what was judged, from where it was: somebody else may have deployed meanwhile."""
    found = endpoints.get(session, plan.endpoint)
    now = {key: share for key, share in (found.traffic if found else {}).items() if share}
    if now != dict(traffic):
        raise PreconditionError(
            f"somebody else changed the traffic of '{plan.endpoint}' to {now or 'none'}",
            hint="look with mlops endpoint status, then deploy again",
        )
    if not _holds(session, plan, version):
        raise PreconditionError(
            f"somebody else deployed to the slot '{plan.slot}' of '{plan.endpoint}'",
            hint="look with mlops endpoint status, then deploy again",
        )


def _holds(session: Session, plan: Plan, version: ModelVersion) -> bool:
    """Whether the plan's slot stands and holds this version."""
    standing = endpoints.deployments(session, plan.endpoint)
    slot = next((item for item in standing if item.name == plan.slot), None)
    return slot is not None and (slot.model, slot.model_version, slot.state.lower()) == (
        version.name, version.version, "succeeded",
    )  # fmt: skip


def _record(session: Session, endpoint: str, version: ModelVersion, skip_gate: str | None) -> None:
    """Keep on record that a version came past this endpoint's gate, and how."""
    key = f"{GATE_TAG}{endpoint}"
    if key not in version.tags:
        now = datetime.now(UTC).isoformat(timespec="seconds")
        how = f"passed {now}" if skip_gate is None else f"skipped {now}: {skip_gate}"
        models.tag(session, version, {key: how[:TAG_CHARACTERS]})


def _gate(
    session: Session, settings: Settings, plan: Plan, version: ModelVersion, samples: Sequence[gate.Sample]
) -> gate.Report:
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


def _move_traffic(session: Session, settings: Settings, plan: Plan, version: ModelVersion) -> Endpoint:
    seen: Endpoint | None = None
    for share in plan.steps:
        with session.console.step(f"Traffic: {share} % to {plan.slot}"):
            if seen is not None:
                _check_unchanged(session, plan, version, {key: part for key, part in seen.traffic.items() if part})
            seen = endpoints.set_traffic(session, plan.endpoint, traffic_at(plan, share))
            if share < 100:
                stay_interruptible()
                time.sleep(settings.rollout.soak_s)
    if seen is None:
        raise PreconditionError("the rollout has no steps", hint="see rollout.steps in mlops.yaml")
    return seen


def _restore(session: Session, plan: Plan, version: ModelVersion) -> bool:
    """Take the traffic that reached this rollout's version off it; the failure that led here is what the user sees.

    A change that is still under way is waited for, and what somebody else released meanwhile is left alone.

    Returns:
        Whether the traffic could be looked after.
    """
    try:
        found = _settled(session, plan.endpoint)
        if found is not None and found.traffic.get(plan.slot) and _holds(session, plan, version):
            endpoints.set_traffic(session, plan.endpoint, plan.before)
            session.console.warn(f"the traffic of {plan.endpoint} is back at {dict(plan.before) or 'none'}")
    except MlopsError as error:
        session.console.warn(f"the traffic of {plan.endpoint} could not be checked: {error.message}; look at it")
        return False
    return True


def _settled(session: Session, name: str) -> Endpoint | None:
    """The endpoint once nothing changes it any more, or as it is after :data:`SETTLE_S`."""
    end, told = time.monotonic() + SETTLE_S, False
    while True:
        found = endpoints.get(session, name)
        if found is None or found.state.lower() in SETTLED or time.monotonic() > end:
            return found
        if not told:
            session.console.say(f"waiting for the endpoint, which is '{found.state}'")
            told = True
        time.sleep(min(1.0, session.settings.training.poll_s))


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


def rollback(
    session: Session,
    settings: Settings,
    *,
    version: ModelVersion | None,
    name: str | None = None,
    skip_gate: str | None = None,
) -> Outcome:
    """Put the version before, or a named one, back into traffic; no gate for what has passed it before.

    Args:
        session: the workspace.
        settings: the target's settings.
        version: the version to go back to; the one before when None.
        name: the endpoint, the settings' one by default.
        skip_gate: why a version that has not passed the gate may have the traffic.

    Raises:
        PreconditionError: there is no endpoint, nothing to go back to, or only what has not passed the gate.
    """
    name = name or settings.endpoint.name
    found = endpoints.get(session, name)
    if found is None:
        raise PreconditionError(f"there is no endpoint '{name}'", hint="mlops deploy makes it")
    standing = endpoints.deployments(session, name)
    before = {key: share for key, share in found.traffic.items() if share}

    def approved(slot: Deployment) -> bool:
        held = models.get(session, slot.model, slot.model_version) if slot.model_version else None
        return held is not None and f"{GATE_TAG}{name}" in held.tags

    if version is None:
        goal = other_slot(found, standing, approved=approved)
    else:
        named = [item for item in standing if (item.model, item.model_version) == (version.name, version.version)]
        ready = [item for item in named if item.state.lower() == "succeeded"]
        is_live = any(before == {item.name: 100} for item in ready)
        if skip_gate is None and not is_live and f"{GATE_TAG}{name}" not in version.tags:
            raise PreconditionError(
                f"the version '{version.version}' has not passed the gate of '{name}'",
                hint=f"mlops deploy {version.version} asks the gate; mlops rollback --skip-gate needs a reason",
            )
        if not ready:
            reason = skip_gate or "a rollback to a version that has passed before"
            return deploy(session, settings, version, test_rows=Path(), skip_gate=reason)
        goal = max(ready, key=lambda item: found.traffic.get(item.name, 0))
        if not is_live:
            _record(session, name, version, skip_gate)
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
        skipped_gate=skip_gate,
        note="back to the slot that still stands",
    )
