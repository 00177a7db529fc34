"""mlops metrics: what a training job has logged."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mlops.cli.options import Run, argument, command

if TYPE_CHECKING:
    from mlops.azure.metrics import JobMetrics
    from mlops.azure.session import Session


@command(example="mlops metrics ft-0123456789abcdef-1 --plot loss.png")
@argument("job")
@click.option("--plot", type=click.Path(path_type=Path), help="Where to draw the loss curve (PNG).")
def metrics(run: Run, job: str | None, plot: Path | None) -> None:
    """Losses, throughput and scores of a training job (by default the newest one)."""
    from rich.console import Group

    from mlops.azure.session import connect
    from mlops.cli.wait import newest_job

    session = connect(run.settings, run.console)
    name = job or newest_job(run, session)
    found = read_metrics(session, name)
    picture = draw_curve(run, found, plot)
    data = {"job": name, "metrics": dict(found.last), "curves": found.curves, "plot": picture}
    text = Group(metrics_table(found), *([f"curve: {picture}"] if picture else []))
    run.console.result(data, text, outputs=dict(found.last), summary=metrics_markdown(found))


def read_metrics(session: Session, name: str) -> JobMetrics:
    """What the job and its steps logged."""
    from mlops.azure import jobs, metrics
    from mlops.errors import PreconditionError

    job = jobs.get(session, name)
    if job is None:
        raise PreconditionError(f"there is no job '{name}'", hint="mlops train submits one")
    steps = tuple(step.name for step in jobs.steps(session, name))
    return metrics.read(session, name, experiment=job.experiment, steps=steps)


def draw_curve(run: Run, found: JobMetrics, path: Path | None) -> str | None:
    """The loss curve as a PNG, in the reports folder unless a path is given; None without a curve."""
    from mlops import curves

    if not any(found.curves.values()):
        return None
    place = path or run.settings.home / "reports" / f"{found.job}-loss.png"
    return str(curves.draw(found.curves, place, title=found.job))


def metrics_table(found: JobMetrics) -> Any:
    """Metrics with sparklines of the curves."""
    from rich.table import Table

    from mlops import curves

    table = Table(box=None, pad_edge=False, title=found.job, title_justify="left")
    for title in ("metric", "value", "curve"):
        table.add_column(title)
    for name, value in sorted(found.last.items()):
        table.add_row(name, f"{value:.5g}", curves.sparkline(found.curves.get(name, ())))
    return table


def metrics_markdown(found: JobMetrics) -> str:
    """Metrics for the job summary, the training loss as a chart."""
    from mlops import curves
    from mlops.console import markdown_table

    rows = [[name, f"{value:.5g}"] for name, value in sorted(found.last.items())]
    chart = curves.mermaid(found.curves.get("train_loss", ()), title="training loss")
    return f"### Training {found.job}\n\n{markdown_table(['metric', 'value'], rows)}\n\n{chart}"
