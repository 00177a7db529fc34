"""The calls around the decisions. What fails for one job does not keep the others from being looked after."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from mlops.azure import endpoints, jobs
from mlops.azure import models as azure_models
from mlops.azure.errors import BusyError, UnavailableError
from mlops.core.errors import MlopsError
from mlops.core.resources import Job, ModelVersion
from mlops.ledger import Ledger
from mlops.reconcile.decisions import REPORTED_TAG, Next, Work, next_version, ours, sort_jobs
from mlops.rollout.abandoned import plan_recovery, recover_abandoned
from mlops.training import register, wait
from mlops.training.evaluation import EvaluationFailed

if TYPE_CHECKING:
    from mlops.azure.session import Session
    from mlops.config.settings import Settings
    from mlops.rollout.recovery import RecoveryDecision

LOOK_BACK = timedelta(days=30)
"""Jobs that are older are nobody's concern any more."""


@dataclass(frozen=True, kw_only=True)
class Failure:
    """A training that ended badly, or one whose model cannot be registered."""

    job: Job
    error: MlopsError


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What was found and done.

    Attributes:
        work: the trainings by what was to be done.
        registered: each job with its new version.
        failures: to be reported.
        repair: what became of a rollout that was left half way; None where there was none.
        deploy: the version that should be deployed.
        problems: what will be tried again.
        refused: trainings whose model falls short of ``training.evaluation``, whether people are told now or were.
        broken: why the endpoint could not be looked after; unlike the rest it is an error each time.
    """

    work: Work
    registered: Sequence[tuple[Job, ModelVersion]] = ()
    failures: Sequence[Failure] = ()
    repair: RecoveryDecision | None = None
    deploy: Next
    problems: Sequence[str] = ()
    refused: Sequence[Job] = ()
    broken: MlopsError | None = None

    @property
    def did_nothing(self) -> bool:
        """Whether all was in order."""
        return not (
            self.registered or self.failures or self.repair or self.problems or self.broken or self.deploy.version
        )


def survey(session: Session, settings: Settings, *, now: datetime | None = None) -> Work:
    """This repository's trainings of the last 30 days, by what is to be done."""
    model = register.model_name(settings)
    since = (now or datetime.now(UTC)) - LOOK_BACK
    recent = [job for job in jobs.since(session, since) if ours(job, model=model, experiment=settings.experiment)]
    return sort_jobs(recent, azure_models.versions(session, model, archived=True))


def reconcile(session: Session, settings: Settings, *, dry_run: bool = False) -> Outcome:
    """Go on with what outlived its workflow. A second call finds nothing to do.

    What is to be reported is returned, to be marked by :func:`mark_reported` once people have been told.

    Args:
        session: the workspace.
        settings: the target's settings.
        dry_run: only say what would be done.
    """
    console, name = session.console, settings.endpoint.name
    with console.step("Look at the trainings") as step:
        work = survey(session, settings)
        step.note = f"{len(work.running)} running, {len(work.register)} to register, {len(work.report)} to report"
    problems: list[str] = []
    failures = _failed(session, work.report, problems)
    refused: list[Job] = []
    registered = [] if dry_run else _register(session, settings, work.register, failures, problems, refused)
    with console.step(f"Look at the endpoint {name}") as step:
        mend: Callable[[Session, str], RecoveryDecision | None] = plan_recovery if dry_run else recover_abandoned
        repair, deploy, broken = None, Next("", "it could not be looked at"), None
        try:
            repair = mend(session, name)
            deploy = _next(session, settings, name)
            step.note = repair.why if repair else "no rollout was left half way"
        except MlopsError as error:
            step.outcome, broken = "failed", error
    return Outcome(
        work=work,
        registered=registered,
        failures=failures,
        repair=repair,
        deploy=deploy,
        problems=problems,
        refused=refused,
        broken=broken,
    )


def mark_reported(session: Session, job: str) -> None:
    """Note on a job that people have been told of its end; where that fails, they are told once more."""
    try:
        jobs.tag(session, job, {REPORTED_TAG: datetime.now(UTC).isoformat(timespec="seconds")})
    except MlopsError as error:
        session.console.warn(f"{error.message}; the job '{job}' will be reported again")


def _failed(session: Session, ended: Sequence[Job], problems: list[str]) -> list[Failure]:
    """Why each of them ended badly; one that cannot be looked at is a problem."""
    failures: list[Failure] = []
    for job in ended:
        try:
            failures.append(Failure(job=job, error=wait.why(session, job)))
        except MlopsError as error:
            problems.append(f"{job.name}: {error.message}")
    return failures


def _register(
    session: Session,
    settings: Settings,
    completed: Sequence[Job],
    failures: list[Failure],
    problems: list[str],
    refused: list[Job],
) -> list[tuple[Job, ModelVersion]]:
    """Register each one's model. What fails is a problem, and where it will fail again people are told once.

    A model that falls short of ``training.evaluation`` waits for a person or for other limits: people are told once.
    """
    registered: list[tuple[Job, ModelVersion]] = []
    for job in completed:
        with session.console.step(f"Register the model of {job.name}") as step:
            try:
                registration = register.register(session, settings, job.name)
            except EvaluationFailed as error:
                step.outcome = "failed"
                refused.append(job)
                if REPORTED_TAG not in job.tags:
                    failures.append(Failure(job=job, error=error))
                continue
            except MlopsError as error:
                step.outcome = "failed"
                problems.append(f"{job.name}: {error.message}")
                if not isinstance(error, (UnavailableError, BusyError)) and REPORTED_TAG not in job.tags:
                    failures.append(Failure(job=job, error=error))
                continue
            step.note = f"version {registration.model.version}" + ("" if registration.made else " (was there)")
            if registration.made:
                registered.append((job, registration.model))
    return registered


def _next(session: Session, settings: Settings, name: str) -> Next:
    model = register.model_name(settings)
    endpoint = endpoints.get(session, name)
    live = {
        slot.model_version
        for slot in (endpoints.deployments(session, name) if endpoint else [])
        if endpoint and slot.model == model and endpoints.shares(endpoint.traffic).get(slot.name.lower(), 0) > 0
    }
    records, locked = Ledger(session, name).inspect()
    return next_version(azure_models.versions(session, model), records, live=live, locked=locked)
