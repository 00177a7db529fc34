"""The rollout: a model version into the idle slot, through the gate, into traffic step by step.

:mod:`mlops.rollout.plan` decides, this module puts the calls around it, :mod:`mlops.rollout.context` sees to it that
each change is on record before it is made. Traffic never rests on a slot that has not passed its gate, unless a person
skipped the gate with a reason, on record.
"""

from __future__ import annotations

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
from mlops.ledger import Begin, Deployed, End, Hold, Ledger, Outcome, Overruled, Planned, ReplacedVersion, Verdict
from mlops.rollout import preflight
from mlops.rollout.context import UnderWay
from mlops.rollout.plan import Plan, make_plan, preview_name
from mlops.rollout.recovery import recover
from mlops.rollout.result import RolloutResult
from mlops.rollout.slot import deployment_spec, draw_samples
from mlops.rollout.steps import move

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
        force: even if this very version is live; and into a slot made anew.
        skip_gate: the reason why a person skips gate and soak.

    Raises:
        GateFailed: the gate refused, or a soak did; traffic is as it was.
        GateUndecided: the gate could not decide; traffic is as it was.
        PreconditionError: something that must hold does not; somebody else holds the endpoint; the lease was broken.
        AzureError: Azure refused, or broke and stayed broken.
    """
    gate.validate(settings.gate)
    samples = [] if skip_gate is not None else draw_samples(settings, test_rows)
    name = preview_name(settings, datetime.now(UTC)) if preview else settings.endpoint.name
    with Ledger(session, name).hold(action="deploy") as hold:
        hold.write(Begin(model=version.name, version=version.version, reason=skip_gate))
        recover(session, hold, name)
        return release(
            session,
            settings,
            hold,
            version,
            name=name,
            samples=samples,
            split=test_rows.stem,
            preview=preview,
            force=force,
            skip_gate=skip_gate,
        )


def release(
    session: Session,
    settings: Settings,
    hold: Hold,
    version: ModelVersion,
    *,
    name: str,
    samples: list[gate.Sample],
    split: str = "",
    preview: bool = False,
    force: bool = False,
    skip_gate: str | None = None,
) -> RolloutResult:
    """What :func:`deploy` does once it has the lease and the endpoint is in a known state."""
    try:
        before = [record for record in hold.records() if record.rollout != hold.rollout]
        ours = may_still_run(before)  # then what is under way may be our own, and is waited for
        found = endpoints.settle(session, name) if ours else endpoints.get(session, name)
        look = endpoints.settled_deployments if ours else endpoints.deployments
        standing = look(session, name) if found else []
        plan = make_plan(settings, name, found, standing)
        live = next((item for item in standing if item.name == plan.live), None)
        if live is not None and not force and live.model_version == version.version and live.model == version.name:
            session.console.say(f"{version.name}:{version.version} is live in {live.name} already")
            hold.write(End(outcome=Outcome.UNCHANGED, traffic=dict(plan.before)))
            return unchanged(plan, version, found, live, hold)
        checked = preflight.check(session, settings, version, plan, standing)
        spec = deployment_spec(settings, plan, version, probes=checked.probes, skip_gate=skip_gate)
    except MlopsError as error:
        hold.write(End(outcome=Outcome.FAILED, error=error.message))
        raise
    for warning in checked.warnings:
        session.console.warn(warning)
    session.console.say(f"{version.name}:{version.version} goes into {plan.slot}: {plan.why}")
    steps = plan.steps if skip_gate is None else (100,)
    hold.write(
        Planned(
            action="deploy",
            slot=plan.slot,
            live=plan.live,
            before=dict(plan.before),
            steps=steps,
            model=version.name,
            version=version.version,
            replaced=replaced_version(live),
        )
    )
    work = UnderWay(session, settings, hold, plan, version, samples, traffic=shares(plan.before))
    work.mark("begin")
    try:
        _prepare_endpoint(work, found, preview=preview)
        _deploy(work, spec, anew=force)
        if skip_gate is None:
            _ask_gate(work, split)
        else:
            session.console.warn(f"the gate is skipped: {skip_gate}")
            work.record_verdict(Verdict(what="skipped", verdict="skipped", reason=skip_gate))
        work.check_unchanged()
        seen = move(work, steps, watched=skip_gate is None)
    except BaseException as error:
        told = _stopped(work, error)
        if told is error:
            raise
        raise told from None
    replaced = next(iter(plan.before), None)
    hold.write(End(outcome=Outcome.RELEASED, traffic=work.traffic, left=replaced))
    folder = work.write_report(logs=False)
    return RolloutResult(
        endpoint=name,
        slot=plan.slot,
        model=version.name,
        version=version.version,
        traffic=work.traffic,
        before=plan.before,
        scoring_url=seen.scoring_url,
        changed=True,
        rollout=hold.rollout,
        replaced=f"{live.model}:{live.model_version}" if live else None,
        report=work.report,
        report_folder=str(folder) if folder else None,
        skipped_gate=skip_gate,
        note=plan.why,
    )


def replaced_version(live: Deployment | None) -> ReplacedVersion | None:
    """A slot's model and version, for the record."""
    return ReplacedVersion(model=live.model, version=live.model_version) if live is not None else None


def may_still_run(records: Sequence[Record]) -> bool:
    """Whether an operation of the rollouts before this one may still run in Azure: the last did not end well."""
    if not records:
        return False
    last = records[-1].facts
    return not (isinstance(last, End) and last.outcome.is_settled)


def unchanged(
    plan: Plan,
    version: ModelVersion,
    found: Endpoint | None,
    live: Deployment,
    hold: Hold,
) -> RolloutResult:
    """The outcome where the version is live as it is."""
    return RolloutResult(
        endpoint=plan.endpoint,
        slot=live.name,
        model=version.name,
        version=version.version,
        traffic=plan.before,
        before=plan.before,
        scoring_url=found.scoring_url if found else None,
        changed=False,
        rollout=hold.rollout,
        note="was live already",
    )


def _prepare_endpoint(work: UnderWay, found: Endpoint | None, *, preview: bool) -> None:
    """Create the endpoint where there is none; mend one whose last operation failed, since it takes no deployment."""
    session, name = work.session, work.name
    if found is None:
        with session.console.step(f"Create the endpoint {name}"):
            tags = {
                MANAGED_TAG: MANAGED_BY,
                KIND_TAG: "preview" if preview else "lasting",
                CREATED_TAG: datetime.now(UTC).isoformat(timespec="seconds"),
            }
            description = f"Chat completion: {work.version.name}"
            identity = identities.resolved(session, work.settings.deployment.identity)
            endpoints.create(session, name, description=description, tags=tags, identity=identity)
    elif found.state.lower() != "succeeded":
        with session.console.step(f"Mend the endpoint {name}, which is {found.state}"):
            endpoints.mend(session, name)


def _deploy(work: UnderWay, spec: endpoints.DeploymentSpec, *, anew: bool) -> None:
    """Deploy; where that fails, say why."""
    begin = time.monotonic()
    with work.session.console.step(f"Deploy to {spec.name}") as step:
        try:
            made = endpoints.deploy(work.session, spec, anew=anew)
        except Overruled:
            raise
        except (AzureError, PreconditionError) as error:
            failure = diagnosis.failure(work.session, work.settings, spec.endpoint, spec.name, error)
            if failure.logs:
                error.details = (*error.details, f"both logs, whole: {work.save_logs(failure.logs)}")
            raise
        seconds = time.monotonic() - begin
        step.note = f"{made.instance_count} × {made.instance_type}"
    work.hold.write(
        Deployed(slot=spec.name, model=work.version.name, version=work.version.version, seconds=round(seconds, 1))
    )
    work.mark("deployed")


def _ask_gate(work: UnderWay, split: str) -> None:
    """Ask the gate, put its verdict on record, and stop here unless it is a pass."""
    settings, plan, console = work.settings, work.plan, work.session.console
    with console.step(f"Gate: {min(settings.gate.conversations, len(work.samples))} conversations of {split}") as step:
        with console.progress() as progress:
            task = progress.add_task("answers", total=None)
            report = gate.evaluate(
                work.scorer,
                settings.gate,
                work.samples,
                endpoint=plan.endpoint,
                model=work.label,
                candidate=plan.slot,
                live=plan.live,
                done=lambda: progress.advance(task),
                planned=lambda count: progress.update(task, total=count),
            )
        work.report = report
        step.note = gate.summary_line(report)
        work.record_verdict(Verdict(what="gate", verdict=report.verdict, scores=dict(report.candidate.scores)))
        if not report.passed:
            step.outcome = "failed"
            folder = work.write_report(logs=True) or Path("(not written)")
            console.summary(gate.to_markdown(report))
            console.outputs({"report": str(folder)})
            raise (gate.refusal if report.verdict == "fail" else gate.undecided)(report, folder)


OUTCOMES: tuple[tuple[type[BaseException], Outcome], ...] = (
    (GateUndecided, Outcome.UNDECIDED),
    (GateFailed, Outcome.REFUSED),
    (KeyboardInterrupt, Outcome.INTERRUPTED),
    (BaseException, Outcome.FAILED),
)


def _stopped(work: UnderWay, error: BaseException) -> BaseException:
    """Look after the traffic, save what there is to see, close the record; returns what the user is told."""
    if isinstance(error, Overruled):
        return error
    moved = any(record.kind == "traffic" for record in work.hold.records() if record.rollout == work.hold.rollout)
    restored = work.restore()
    if restored:
        outcome = next(name for kind, name in OUTCOMES if isinstance(error, kind))
        outcome = Outcome.RESTORED if moved and outcome in (Outcome.REFUSED, Outcome.FAILED) else outcome
        message = error.message if isinstance(error, MlopsError) else type(error).__name__
        try:
            left = work.plan.slot if moved else None
            work.hold.write(End(outcome=outcome, traffic=work.traffic, error=message, left=left))
        except MlopsError as problem:
            work.session.console.warn(f"the end of this rollout could not be recorded: {problem.message}")
    if isinstance(error, GateFailed) and work.soaks:
        folder = work.write_report(logs=True)
        error.details = (*error.details, f"report and the slot's logs: {folder}")
        if work.report is not None:
            work.session.console.summary(gate.to_markdown(work.report))
            work.session.console.outputs({"report": str(folder)})
    if isinstance(error, KeyboardInterrupt):
        hint = f"mlops deploy {work.version.version} begins again"
        return Interrupted("interrupted" + ("; the traffic is as it was" if restored else ""), hint=hint)
    return error
