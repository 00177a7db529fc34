"""What the commands show of a training job: its metrics as a table or as Markdown, its loss curve."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlops.azure.metrics import JobMetrics
    from mlops.azure.session import Session
    from mlops.cli.options import Run
    from mlops.training.evaluation import Judgement


def newest_job(run: Run, session: Session) -> str:
    """The newest job of this experiment that mlops submitted."""
    from mlops.azure import jobs
    from mlops.core.errors import PreconditionError

    job = jobs.newest(session, run.settings.experiment)
    if job is None:
        raise PreconditionError(f"no training job in '{run.settings.experiment}'", hint="mlops train submits one")
    return job.name


def read_metrics(session: Session, name: str) -> JobMetrics:
    """What the job and its steps logged."""
    from mlops.azure import jobs, metrics
    from mlops.core.errors import PreconditionError

    job = jobs.get(session, name)
    if job is None:
        raise PreconditionError(f"there is no job '{name}'", hint="mlops train submits one")
    steps = tuple(step.name for step in jobs.steps(session, name))
    return metrics.read(session, name, experiment=job.experiment, steps=steps)


def draw_curve(run: Run, metrics: JobMetrics, path: Path | None) -> str | None:
    """The loss curve as a PNG, in the reports folder unless a path is given; None without a curve."""
    from mlops.training import curves

    if not any(metrics.curves.values()):
        return None
    target = path or run.settings.home / "reports" / f"{metrics.job}-loss.png"
    return str(curves.draw(metrics.curves, target, title=metrics.job))


def metrics_table(metrics: JobMetrics, judgement: Judgement | None = None) -> Any:
    """Metrics with sparklines of the curves; base and tuned side by side where the job has compared them.

    Args:
        metrics: what was logged.
        judgement: how the comparison is judged; None shows it without limits.
    """
    from rich.console import Group
    from rich.table import Table

    from mlops.training import curves, evaluation

    table = Table(box=None, pad_edge=False, title=metrics.job, title_justify="left")
    for title in ("metric", "value", "curve"):
        table.add_column(title)
    for name, value in sorted(metrics.last.items()):
        if not evaluation.is_of_evaluation(name):
            table.add_row(name, f"{value:.5g}", curves.sparkline(metrics.curves.get(name, ())))
    judged = judgement or evaluation.judgement_of(metrics.last)
    if not evaluation.was_evaluated(metrics.last):
        return table
    side = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    header = evaluation.HEADER if judgement else evaluation.HEADER[:4]
    for column, title in enumerate(header):
        side.add_column(title, justify="right" if 1 <= column <= 3 else "left", overflow="fold")
    for row in judged.rows:
        side.add_row(*row[: len(header)])
    return Group(table, "", side)


def metrics_markdown(metrics: JobMetrics, judgement: Judgement | None = None) -> str:
    """Metrics for the job summary, the training loss as a chart."""
    from mlops.core.console import markdown_table
    from mlops.training import curves, evaluation

    rows = [
        [name, f"{value:.5g}"] for name, value in sorted(metrics.last.items()) if not evaluation.is_of_evaluation(name)
    ]
    sections = [f"### Training {metrics.job}", markdown_table(["metric", "value"], rows)]
    if evaluation.was_evaluated(metrics.last):
        judged = judgement or evaluation.judgement_of(metrics.last)
        sections.append(markdown_table(evaluation.HEADER, judged.rows))
    sections.append(curves.mermaid(metrics.curves.get("train_loss", ()), title="training loss"))
    return "\n\n".join(sections)
