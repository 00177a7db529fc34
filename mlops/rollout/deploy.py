"""The rollout: a model version into the idle slot, through the gate, into traffic step by step.

:mod:`mlops.rollout.plan` decides, this module puts the calls around it, :mod:`mlops.rollout.context` sees to it that
each change is on record before it is made. Traffic never rests on a slot that has not passed its gate, unless a person
skipped the gate with a reason, on record.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from mlops import diagnosis, gate
from mlops.azure import endpoints, identities
from mlops.azure.endpoints import shares
from mlops.core.errors import AzureError, GateFailed, GateUndecided, Interrupted, MlopsError, PreconditionError
from mlops.core.resources import CREATED_TAG, KIND_TAG, MANAGED_BY, MANAGED_TAG, Deployment, Endpoint, ModelVersion
from mlops.ledger import Begin, Deployed, End, LeaseLost, Ledger, Lock, Outcome, Planned, ReplacedVersion, Verdict
from mlops.rollout import preflight
from mlops.rollout.context import ReleaseRequest, RolloutContext
from mlops.rollout.plan import Plan, holds, make_plan, preview_name
from mlops.rollout.recovery import recover
from mlops.rollout.result import RolloutResult
from mlops.rollout.slot import deployment_spec, draw_samples
from mlops.rollout.steps import shift_traffic

if TYPE_CHECKING:
    from mlops.azure.session import Session
    from mlops.config.settings import Settings
    from mlops.ledger import Record


def deploy(
    session: Session,
    settings: Settings,
    version: ModelVersion,
    *,
    test_rows: Path,
    preview: bool = False,
    force: bool = False,
    skip_gate: str | None = None,
) -> RolloutResult:
    """Bring a model version into traffic, behind the gate.

    Args:
        session: the workspace.
        settings: the target's settings.
        version: what to deploy.
        test_rows: the prepared split that the gate draws from.
        preview: on an endpoint of its own.
        force: even if this very version is live; and into a recreated slot.
        skip_gate: the reason why a person skips gate and soak.

    Raises:
        GateFailed: the gate refused, or a soak did; traffic is as it was.
        GateUndecided: the gate could not decide; traffic is as it was.
        PreconditionError: something that must hold does not; somebody else holds the endpoint; the lease was broken.
        AzureError: Azure refused, or broke and stayed broken.
    """
    gate.validate(settings.gate)
    request = ReleaseRequest(
        version=version,
        endpoint=preview_name(settings, datetime.now(UTC)) if preview else settings.endpoint.name,
        samples=[] if skip_gate is not None else draw_samples(settings, test_rows),
        split=test_rows.stem,
        preview=preview,
        force=force,
        skip_gate=skip_gate,
    )
    with Ledger(session, request.endpoint).acquire(action="deploy") as lock:
        lock.write(Begin(model=version.name, version=version.version, reason=skip_gate))
        recover(session, lock, request.endpoint)
        return release(session, settings, lock, request)


def release(session: Session, settings: Settings, lock: Lock, request: ReleaseRequest) -> RolloutResult:
    """What :func:`deploy` does once it has the lease and the endpoint is in a known state."""
    version = request.version
    try:
        endpoint, deployments = _inspect(session, lock, request.endpoint)
        plan = make_plan(settings, request.endpoint, endpoint, deployments)
        live = next((item for item in deployments if item.name == plan.live), None)
        if live is not None and not request.force and holds(live, version):
            session.console.say(f"{version.name}:{version.version} is live in {live.name} already")
            lock.write(End(outcome=Outcome.UNCHANGED, traffic=dict(plan.before)))
            return _unchanged(plan, live, endpoint, lock)
        checked = preflight.check(session, settings, version, plan, deployments)
        spec = deployment_spec(settings, plan, version, probes=checked.probes, skip_gate=request.skip_gate)
    except MlopsError as error:
        lock.write(End(outcome=Outcome.FAILED, error=error.message))
        raise
    for warning in checked.warnings:
        session.console.warn(warning)
    session.console.say(f"{version.name}:{version.version} goes into {plan.slot}: {plan.why}")
    if request.skip_gate is not None:
        plan = dataclasses.replace(plan, steps=(100,))
    _record_plan(lock, plan, version, live)
    context = RolloutContext(session, settings, lock, request, plan, traffic=shares(plan.before))
    context.mark("begin")
    seen = _roll_out(context, endpoint, spec)
    lock.write(End(outcome=Outcome.RELEASED, traffic=context.traffic, vacated=next(iter(plan.before), None)))
    folder = context.write_report(logs=False)
    return RolloutResult(
        endpoint=request.endpoint,
        slot=plan.slot,
        model=version.name,
        version=version.version,
        traffic=context.traffic,
        before=plan.before,
        scoring_url=seen.scoring_url,
        changed=True,
        rollout=lock.rollout,
        replaced=f"{live.model}:{live.model_version}" if live else None,
        report=context.report,
        report_folder=str(folder) if folder else None,
        skipped_gate=request.skip_gate,
        note=plan.why,
    )


def _inspect(session: Session, lock: Lock, name: str) -> tuple[Endpoint | None, list[Deployment]]:
    """The endpoint and its slots; operations of our own that may still run are waited for."""
    if may_still_run([record for record in lock.records() if record.rollout != lock.rollout]):
        endpoint = endpoints.settle(session, name)
        return endpoint, endpoints.settled_deployments(session, name) if endpoint else []
    endpoint = endpoints.get(session, name)
    return endpoint, endpoints.deployments(session, name) if endpoint else []


def may_still_run(records: Sequence[Record]) -> bool:
    """Whether an operation of the rollouts before this one may still run in Azure: the last did not end well."""
    if not records:
        return False
    last = records[-1].facts
    return not (isinstance(last, End) and last.outcome.is_settled)


def _unchanged(plan: Plan, live: Deployment, endpoint: Endpoint | None, lock: Lock) -> RolloutResult:
    """The result where the version is live as it is."""
    return RolloutResult(
        endpoint=plan.endpoint,
        slot=live.name,
        model=live.model,
        version=live.model_version,
        traffic=plan.before,
        before=plan.before,
        scoring_url=endpoint.scoring_url if endpoint else None,
        changed=False,
        rollout=lock.rollout,
        note="was live already",
    )


def _record_plan(lock: Lock, plan: Plan, version: ModelVersion, live: Deployment | None) -> None:
    lock.write(
        Planned(
            action="deploy",
            slot=plan.slot,
            live=plan.live,
            before=dict(plan.before),
            steps=plan.steps,
            model=version.name,
            version=version.version,
            replaced=replaced_version(live),
        )
    )


def replaced_version(live: Deployment | None) -> ReplacedVersion | None:
    """A slot's model and version, for the record."""
    return ReplacedVersion(model=live.model, version=live.model_version) if live is not None else None


def _roll_out(context: RolloutContext, endpoint: Endpoint | None, spec: endpoints.DeploymentSpec) -> Endpoint:
    """Deploy, ask the gate, move the traffic; what goes wrong is undone."""
    reason = context.request.skip_gate
    try:
        _prepare_endpoint(context, endpoint)
        _deploy(context, spec)
        if reason is None:
            _ask_gate(context)
        else:
            context.session.console.warn(f"the gate is skipped: {reason}")
            context.record_verdict(Verdict(what="skipped", verdict="skipped", reason=reason))
        context.check_unchanged()
        return shift_traffic(context, watched=reason is None)
    except BaseException as error:
        reported = _stopped(context, error)
        if reported is error:
            raise
        raise reported from None


def _prepare_endpoint(context: RolloutContext, endpoint: Endpoint | None) -> None:
    """Create the endpoint where there is none; mend one whose last operation failed, since it takes no deployment."""
    session, name = context.session, context.name
    if endpoint is None:
        with session.console.step(f"Create the endpoint {name}"):
            tags = {
                MANAGED_TAG: MANAGED_BY,
                KIND_TAG: "preview" if context.request.preview else "lasting",
                CREATED_TAG: datetime.now(UTC).isoformat(timespec="seconds"),
            }
            description = f"Chat completion: {context.version.name}"
            identity = identities.resolved(session, context.settings.deployment.identity)
            endpoints.create(session, name, description=description, tags=tags, identity=identity)
    elif endpoint.state.lower() != "succeeded":
        with session.console.step(f"Mend the endpoint {name}, which is {endpoint.state}"):
            endpoints.mend(session, name)


def _deploy(context: RolloutContext, spec: endpoints.DeploymentSpec) -> None:
    """Deploy; where that fails, say why."""
    started = time.monotonic()
    with context.session.console.step(f"Deploy to {spec.name}") as step:
        try:
            made = endpoints.deploy(context.session, spec, recreate=context.request.force)
        except LeaseLost:
            raise
        except (AzureError, PreconditionError) as error:
            failure = diagnosis.failure(context.session, context.settings, spec.endpoint, spec.name, error)
            folder = context.save_logs(failure.logs) if failure.logs else None
            if folder is not None:
                error.details = (*error.details, f"both logs, whole: {folder}")
            raise
        seconds = time.monotonic() - started
        step.note = f"{made.instance_count} × {made.instance_type}"
    context.lock.write(
        Deployed(slot=spec.name, model=context.version.name, version=context.version.version, seconds=round(seconds, 1))
    )
    context.mark("deployed")


def _ask_gate(context: RolloutContext) -> None:
    """Ask the gate, put its verdict on record, and stop here unless it is a pass."""
    settings, plan, console = context.settings, context.plan, context.session.console
    with console.step(
        f"Gate: {min(settings.gate.conversations, len(context.samples))} conversations of {context.request.split}"
    ) as step:
        with console.progress() as progress:
            task = progress.add_task("answers", total=None)
            report = gate.evaluate(
                context.scorer,
                settings.gate,
                context.samples,
                gate.Trial(endpoint=plan.endpoint, model=context.label, candidate=plan.slot, live=plan.live),
                done=lambda: progress.advance(task),
                planned=lambda count: progress.update(task, total=count),
            )
        context.report = report
        step.note = gate.summary_line(report)
        context.record_verdict(Verdict(what="gate", verdict=report.verdict, scores=dict(report.candidate.scores)))
        if not report.passed:
            step.outcome = "failed"
            folder = context.write_report(logs=True)
            console.summary(gate.to_markdown(report))
            if folder is not None:
                console.outputs({"report": str(folder)})
            raise (gate.refusal if report.verdict == "fail" else gate.undecided)(report, folder)


OUTCOMES: tuple[tuple[type[BaseException], Outcome], ...] = (
    (GateUndecided, Outcome.UNDECIDED),
    (GateFailed, Outcome.REFUSED),
    (KeyboardInterrupt, Outcome.INTERRUPTED),
    (BaseException, Outcome.FAILED),
)


def _stopped(context: RolloutContext, error: BaseException) -> BaseException:
    """Look after the traffic, save what there is to see, close the record; returns what the user is told."""
    if isinstance(error, LeaseLost):
        return error
    moved = any(record.kind == "traffic" for record in context.lock.records() if record.rollout == context.lock.rollout)
    restored = context.restore()
    if restored:
        outcome = next(name for kind, name in OUTCOMES if isinstance(error, kind))
        outcome = Outcome.RESTORED if moved and outcome in (Outcome.REFUSED, Outcome.FAILED) else outcome
        message = error.message if isinstance(error, MlopsError) else type(error).__name__
        try:
            vacated = context.plan.slot if moved else None
            context.lock.write(End(outcome=outcome, traffic=context.traffic, error=message, vacated=vacated))
        except MlopsError as problem:
            context.session.console.warn(f"the end of this rollout could not be recorded: {problem.message}")
    if isinstance(error, GateFailed) and context.soaks:
        folder = context.write_report(logs=True)
        if context.report is not None:
            context.session.console.summary(gate.to_markdown(context.report))
        if folder is not None:
            error.details = (*error.details, f"report and the slot's logs: {folder}")
            context.session.console.outputs({"report": str(folder)})
    if isinstance(error, KeyboardInterrupt):
        hint = f"mlops deploy {context.version.version} begins again"
        return Interrupted("interrupted" + ("; the traffic is as it was" if restored else ""), hint=hint)
    return error
