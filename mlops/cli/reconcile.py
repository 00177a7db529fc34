"""mlops reconcile."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import click

from mlops.cli.options import Run, command

if TYPE_CHECKING:
    from rich.table import Table

    from mlops.core.resources import Job
    from mlops.reconcile import Outcome


@command(
    example="""
mlops reconcile --dry-run            # what would be done
mlops reconcile --target staging     # twice does no more than once
"""
)
@click.option("--dry-run", is_flag=True, envvar="MLOPS_DRY_RUN", help="Print what would be done; change nothing.")
def reconcile(run: Run, dry_run: bool) -> None:
    """Resume work left by finished or interrupted workflows.

    Trainings that have completed get their model registered, and the output `version` names the newest one that should
    be deployed. Those that failed are reported, once, with exit code 5. A rollout whose runner died is finished or
    undone by its record.
    """
    from mlops import reconcile as steps
    from mlops.azure.session import connect

    session = connect(run.settings, run.console)
    outcome = steps.reconcile(session, run.settings, dry_run=dry_run)
    rows = table_rows(outcome, dry_run=dry_run)
    state = "nothing to do" if outcome.did_nothing else "would be done" if dry_run else "done"
    outputs = {
        "version": "" if dry_run else outcome.deploy.version,  # what is deployed next must not begin by a dry run
        "registered": len(outcome.registered),
        "failed": len(outcome.failures),
        "running": len(outcome.work.running),
        "repaired": int(outcome.repair is not None),
    }
    run.console.result(
        data(outcome, dry_run=dry_run), table(rows, state), outputs=outputs, summary=markdown(rows, state)
    )
    for problem in outcome.problems:
        run.console.warn(f"{problem}; it is tried again by the next mlops reconcile")
    text_console = dataclasses.replace(run.console, as_json=False)  # stdout has its document already
    errors = [] if dry_run else [failure.error for failure in outcome.failures]
    errors += [outcome.broken] if outcome.broken else []
    for error in errors:
        text_console.failure(error)
    for failure in outcome.failures if not dry_run else ():
        steps.mark_reported(session, failure.job.name)
    if errors:
        raise click.exceptions.Exit(errors[0].exit_code)


Row = tuple[str, str, str]


def table_rows(outcome: Outcome, *, dry_run: bool) -> list[Row]:
    """What, of what, and how; for people."""
    rows: list[Row] = [("running", job.name, f"{job.status} for {_how_long(job)}") for job in outcome.work.running]
    registered = {job.name: version for job, version in outcome.registered}
    for job in outcome.work.register:
        version = registered.get(job.name)
        if version is not None:
            rows.append(("registered", job.name, f"{version.name}:{version.version}"))
        elif job in outcome.refused:
            rows.append(("not registered", job.name, f"it failed its evaluation: mlops metrics {job.name}"))
        elif dry_run:
            rows.append(("to register", job.name, f"version {job.timestamp}"))
        else:
            rows.append(("not registered", job.name, "it is tried again"))
    verb = "to report" if dry_run else "failed"
    rows += [(verb, failure.job.name, failure.error.message) for failure in outcome.failures]
    if outcome.repair is not None:
        what = "to mend" if dry_run else "mended"
        rows.append((what, "the rollout that was left", f"{outcome.repair.outcome}: {outcome.repair.why}"))
    rows.append(("to deploy", outcome.deploy.version or "nothing", outcome.deploy.why))
    return rows


def _how_long(job: Job) -> str:
    from datetime import UTC, datetime

    from mlops.cleanup.inventory import in_words

    since = job.started or job.created
    return in_words(datetime.now(UTC) - since) if since else "an unknown time"


def table(rows: list[Row], state: str) -> Table:
    """For a terminal."""
    from rich.table import Table
    from rich.text import Text

    grid = Table(box=None, pad_edge=False, show_header=False, caption=state, caption_justify="left")
    for _ in range(3):
        grid.add_column(overflow="fold")
    for row in rows:
        grid.add_row(*(Text(cell) for cell in row))
    return grid


def markdown(rows: list[Row], state: str) -> str:
    """For the job summary."""
    from mlops.core.console import markdown_table

    cells: list[list[Any]] = [list(row) for row in rows]
    return f"### Reconcile: {state}\n\n{markdown_table(['what', 'which', 'how'], cells)}"


def data(outcome: Outcome, *, dry_run: bool) -> dict[str, Any]:
    """For --json."""
    return {
        "dry_run": dry_run,
        "running": [_job(job) for job in outcome.work.running],
        "register": [_job(job) for job in outcome.work.register],
        "registered": [
            {"job": job.name, "model": version.name, "version": version.version} for job, version in outcome.registered
        ],
        "failed": [
            {**_job(failure.job), "message": failure.error.message, "details": list(failure.error.details)}
            for failure in outcome.failures
        ],
        "refused": [_job(job) for job in outcome.refused],
        "repair": outcome.repair,
        "version": outcome.deploy.version,
        "why": outcome.deploy.why,
        "problems": [*outcome.problems, *([outcome.broken.message] if outcome.broken else [])],
    }


def _job(job: Job) -> dict[str, Any]:
    return {"job": job.name, "status": job.status, "created": job.created, "url": job.studio_url}
