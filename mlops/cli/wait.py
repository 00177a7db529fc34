"""mlops wait: a training job, followed to its end."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from mlops.cli.options import Run, Timespan, argument, command, option

if TYPE_CHECKING:
    from mlops.azure.session import Session
    from mlops.core.errors import NotFinishedYet
    from mlops.training.wait import Progress

ENDED_OR_RUNNING = frozenset({"Running", "Completed", "Failed", "Canceled", "Paused", "NotResponding"})
"""States of a step that are worth a line in a log."""


@command(
    example="""
mlops wait ft-0123456789abcdef-1
mlops wait ft-0123456789abcdef-1 --timeout 5h --come-back    # for a job longer than GitHub's six hours
"""
)
@argument("job")
@option("--timeout", "timeout_s", type=Timespan(), help="Stop waiting after this time (90s, 45m, 5h); exit code 9.")
@click.option("--come-back", is_flag=True, help="Exit with 0 if the job is still running by then.")
@click.option("--cancel-on-interrupt", is_flag=True, help="Cancel the job on Ctrl-C instead of leaving it running.")
def wait(run: Run, job: str | None, timeout_s: float | None, come_back: bool, cancel_on_interrupt: bool) -> None:
    """Follow a training job to its end.

    Without JOB: the newest one.

    With --come-back the output `finished` says whether it has ended; `mlops reconcile` goes on with it later.
    """
    from mlops.azure.session import connect
    from mlops.cli import training_views
    from mlops.core.errors import NotFinishedYet

    session = connect(run.settings, run.console)
    name = job or training_views.newest_job(run, session)
    try:
        progress = followed(run, session, name, timeout_s=timeout_s, cancel_on_interrupt=cancel_on_interrupt)
    except NotFinishedYet as error:
        if not come_back:
            raise
        show_unfinished(run, name, error)
        return
    show_finished(run, session, progress)


def followed(run: Run, session: Session, name: str, *, timeout_s: float | None, cancel_on_interrupt: bool) -> Progress:
    """Wait with the steps in sight; Ctrl-C leaves the job running unless asked otherwise.

    A bad end that a workflow shows is marked on the job, so that `mlops reconcile` does not report it again.
    """
    from mlops.azure import jobs
    from mlops.core.errors import AzureError, Interrupted, TrainingFailed
    from mlops.reconcile import mark_reported
    from mlops.training import wait

    try:
        with run.console.step(f"Train: {name}"), _step_display(run) as show:
            return wait.wait(session, name, poll_s=run.settings.training.poll_s, timeout_s=timeout_s, show=show)
    except TrainingFailed:
        if run.console.on_github:  # in a job's log people see it
            mark_reported(session, name)
        raise
    except AzureError as error:
        error.hint = (
            f"the job '{name}' does not depend on this command: mlops wait {name}{run.target_flag} follows it again"
        )
        raise
    except KeyboardInterrupt:
        if cancel_on_interrupt:
            jobs.cancel(session, name)
            raise Interrupted(
                f"the job '{name}' is being cancelled", hint=f"mlops wait {name}{run.target_flag}"
            ) from None
        raise Interrupted(
            f"the job '{name}' goes on running", hint=f"mlops wait {name}{run.target_flag} follows it again"
        ) from None


@contextlib.contextmanager
def _step_display(run: Run) -> Iterator[Any]:
    """A live table on a terminal; elsewhere a line for each change of state."""
    import sys

    from rich.console import Group
    from rich.live import Live
    from rich.table import Table
    from rich.text import Text

    seen: dict[str, str] = {}

    def lines(progress: Progress) -> None:
        if progress.job.studio_url and seen.get("") != progress.job.studio_url and progress.job.status == "Running":
            seen[""] = progress.job.studio_url
            run.console.say(progress.job.studio_url)
        for step in progress.steps:
            if seen.get(step.name) != step.status and step.status in ENDED_OR_RUNNING:
                seen[step.name] = step.status
                took = f" after {step.seconds:.0f} s" if step.seconds and step.ended else ""
                run.console.say(f"{step.display_name}: {step.status}{took}")

    if not sys.stderr.isatty() or run.console.on_github:
        yield lines
        return
    with Live(console=run.console.err, transient=True, refresh_per_second=4) as live:

        def table(progress: Progress) -> None:
            steps = Table(box=None, pad_edge=False)
            for title in ("step", "state", "time"):
                steps.add_column(title)
            for step in progress.steps:
                steps.add_row(step.display_name, step.status, f"{step.seconds:.0f} s" if step.seconds else "")
            steps.add_row(progress.job.name, progress.job.status, "", style="bold")
            live.update(Group(steps, Text(progress.job.studio_url or "", overflow="fold")))

        yield table


def show_unfinished(run: Run, name: str, error: NotFinishedYet) -> None:
    """A job that goes on without us."""
    flag = run.target_flag
    run.console.result(
        {"job": name, "finished": False, "reason": error.message},
        f"{error.message}\nnext: mlops wait {name}{flag}, or mlops reconcile{flag} once it has ended",
        outputs={"job": name, "completed": False, "finished": False},
        summary=f"### Still training\n\n{error.message}: `{name}`. `mlops reconcile` will go on with it.",
    )


def show_finished(run: Run, session: Session, progress: Progress) -> None:
    """The result of `train` and `wait`: steps, metrics, the next command."""
    from rich.console import Group

    from mlops.cli.training_views import draw_curve, metrics_markdown, metrics_table, read_metrics

    metrics = read_metrics(session, progress.job.name)
    picture = draw_curve(run, metrics, None)
    steps = [{"step": s.display_name, "status": s.status, "seconds": s.seconds} for s in progress.steps]
    data = {
        "job": progress.job.name,
        "status": progress.job.status,
        "finished": True,
        "url": progress.job.studio_url,
        "steps": steps,
        "metrics": dict(metrics.last),
        "plot": picture,
    }
    curve = [f"curve: {picture}"] if picture else []
    text = Group(metrics_table(metrics), *curve, f"next:  mlops register {progress.job.name}{run.target_flag}")
    outputs = {"job": progress.job.name, "completed": progress.job.is_completed, "finished": True}
    run.console.result(data, text, outputs=outputs, summary=metrics_markdown(metrics))
