"""A training job on its way: its steps as they run, its end, and why it ended badly."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from mlops.azure import jobs
from mlops.azure.errors import UnavailableError
from mlops.cleanup.inventory import in_words
from mlops.core.errors import MlopsError, NotFinishedYet, PreconditionError, TrainingFailed
from mlops.core.interrupts import stay_interruptible
from mlops.core.resources import RUNNING, Job

if TYPE_CHECKING:
    from mlops.azure.session import Session

LOG_LINES = 25
OUTAGE_TIMEOUT_S = 300.0
"""For so long Azure may be out of reach while a job is followed, which goes on without us."""


@dataclass(frozen=True, kw_only=True)
class Progress:
    """A job and its steps at one moment."""

    job: Job
    steps: tuple[Job, ...]


def wait(
    session: Session,
    name: str,
    *,
    poll_s: float,
    timeout_s: float | None = None,
    outage_timeout_s: float = OUTAGE_TIMEOUT_S,
    show: Callable[[Progress], None] = lambda _: None,
) -> Progress:
    """Follow a job to its end; only ``Completed`` is success.

    Args:
        session: the workspace.
        name: the job's name.
        poll_s: between two looks.
        timeout_s: give up after so long.
        outage_timeout_s: for so long Azure may be out of reach.
        show: told what each look has seen.

    Raises:
        TrainingFailed: it ended otherwise; with the log's tail of the step that failed.
        NotFinishedYet: ``timeout_s`` seconds are over.
        UnavailableError: Azure is out of reach for longer than ``outage_timeout_s``.
    """
    end = None if timeout_s is None else time.monotonic() + timeout_s
    seen: dict[str, Job] = {}
    status = "out of reach"
    unreachable_since: float | None = None  # since when Azure is out of reach
    while True:
        try:
            job = jobs.get(session, name)
            if job is None:
                raise PreconditionError(f"there is no job '{name}'", hint="mlops train submits one")
            progress = Progress(job=job, steps=tuple(timed(jobs.steps(session, name), seen)))
        except UnavailableError as error:
            if unreachable_since is None:
                session.console.warn(f"{error.message}; the job goes on, and so does this command")
            unreachable_since = time.monotonic() if unreachable_since is None else unreachable_since
            if time.monotonic() - unreachable_since > outage_timeout_s:
                raise
        else:
            unreachable_since, status = None, job.status
            show(progress)
            if job.is_completed:
                return progress
            if job.status not in RUNNING:
                raise failure(session, progress)
        if end is not None and time.monotonic() + poll_s > end:
            raise NotFinishedYet(
                f"the job '{name}' is still {status} after {in_words(timedelta(seconds=timeout_s or 0))}",
                hint=f"mlops wait {name}",
            )
        stay_interruptible()
        time.sleep(poll_s)


def timed(steps: list[Job], seen: dict[str, Job]) -> list[Job]:
    """The steps with the times at which they were first seen running and ended: run history gives none.

    Args:
        steps: the steps as they are now.
        seen: the steps as they were, by name; updated.
    """
    now = datetime.now(UTC)
    for step in steps:
        before = seen.get(step.name, step)
        started = step.started or before.started or (now if step.status == "Running" else None)
        ended = step.ended or before.ended or (now if not step.is_running and started else None)
        seen[step.name] = dataclasses.replace(step, started=started, ended=ended)
    return [seen[step.name] for step in steps]


def why(session: Session, job: Job) -> MlopsError:
    """Say why a job that has ended did not complete."""
    return failure(session, Progress(job=job, steps=tuple(jobs.steps(session, job.name))))


def failure(session: Session, progress: Progress) -> MlopsError:
    """Say why a job did not complete: the step, and the end of its log."""
    job = progress.job
    failed = next((step for step in progress.steps if step.status == "Failed"), None)
    if failed is None:
        word = {"Canceled": "was cancelled"}.get(job.status, f"ended as '{job.status}'")
        return TrainingFailed(f"the job '{job.name}' {word}", hint="mlops train submits another attempt")
    tail = jobs.log_tail(session, failed.name, lines=LOG_LINES)
    return TrainingFailed(
        f"the step '{failed.display_name}' of the job '{job.name}' failed",
        details=tail or ("no log was written",),
        hint=job.studio_url,
    )
