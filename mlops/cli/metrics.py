"""mlops metrics: what a training job has logged."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mlops.cli.options import Run, argument, command

if TYPE_CHECKING:
    from mlops.azure.metrics import JobMetrics
    from mlops.azure.session import Session
    from mlops.training.evaluation import Judgement


@command(example="mlops metrics ft-0123456789abcdef-1 --plot loss.png")
@argument("job")
@click.option("--plot", type=click.Path(path_type=Path), help="Where to draw the loss curve (PNG).")
def metrics(run: Run, job: str | None, plot: Path | None) -> None:
    """Losses, throughput and scores of a training job (by default the newest one).

    The evaluation's report, with the most changed answers side by side, is copied into .mlops/reports.
    """
    from rich.console import Group

    from mlops.azure.session import connect
    from mlops.cli.wait import newest_job
    from mlops.training import evaluation

    session = connect(run.settings, run.console)
    name = job or newest_job(run, session)
    found = read_metrics(session, name)
    picture = draw_curve(run, found, plot)
    report = fetch_report(run, session, name)
    if report and not evaluation.was_evaluated(found.last):  # the tracking server lost what the step wrote as well
        found = replace(found, last={**found.last, **evaluation.written_scores(Path(report).parent)})
    judgement = evaluation.judge(run.settings.training.evaluation, found.last)
    data = {
        "job": name,
        "metrics": dict(found.last),
        "curves": found.curves,
        "plot": picture,
        "report": report,
        "evaluation": {"verdict": judgement.verdict, "why": judgement.why, "checks": judgement.checks},
    }
    notes = [f"evaluation: {judgement.verdict}" + (f", {judgement.why}" if judgement.why else "")]
    notes = notes if judgement.verdict else []
    notes += [f"curve: {picture}"] if picture else []
    notes += [f"report: {report}"] if report else []
    run.console.result(
        data,
        Group(metrics_table(found, judgement), *notes),
        outputs=dict(found.last),
        summary=metrics_markdown(found, judgement),
    )


def fetch_report(run: Run, session: Session, job: str) -> str | None:
    """The evaluation's report, copied beside the other reports; None where the job made none or it cannot be had."""
    import shutil
    import tempfile

    from mlops.core.errors import MlopsError
    from mlops.training import register
    from mlops.training.evaluation import REPORT

    place = run.settings.home / "reports" / f"{job}-evaluation"
    if not (place / REPORT).is_file():
        with tempfile.TemporaryDirectory() as folder:
            try:
                found = register.evaluation_report(session, job, Path(folder))
            except MlopsError as error:
                run.console.warn(f"the evaluation's report stays where it is: {error.message}")
                return None
            if found is None or not (found / REPORT).is_file():
                return None
            shutil.copytree(found, place, dirs_exist_ok=True)
    return str(place / REPORT)


def read_metrics(session: Session, name: str) -> JobMetrics:
    """What the job and its steps logged."""
    from mlops.azure import jobs, metrics
    from mlops.core.errors import PreconditionError

    job = jobs.get(session, name)
    if job is None:
        raise PreconditionError(f"there is no job '{name}'", hint="mlops train submits one")
    steps = tuple(step.name for step in jobs.steps(session, name))
    return metrics.read(session, name, experiment=job.experiment, steps=steps)


def draw_curve(run: Run, found: JobMetrics, path: Path | None) -> str | None:
    """The loss curve as a PNG, in the reports folder unless a path is given; None without a curve."""
    from mlops.training import curves

    if not any(found.curves.values()):
        return None
    place = path or run.settings.home / "reports" / f"{found.job}-loss.png"
    return str(curves.draw(found.curves, place, title=found.job))


def metrics_table(found: JobMetrics, judgement: Judgement | None = None) -> Any:
    """Metrics with sparklines of the curves; base and tuned side by side where the job has compared them.

    Args:
        found: what was logged.
        judgement: how the comparison is judged; None shows it without limits.
    """
    from rich.console import Group
    from rich.table import Table

    from mlops.training import curves, evaluation

    table = Table(box=None, pad_edge=False, title=found.job, title_justify="left")
    for title in ("metric", "value", "curve"):
        table.add_column(title)
    for name, value in sorted(found.last.items()):
        if not evaluation.is_of_evaluation(name):
            table.add_row(name, f"{value:.5g}", curves.sparkline(found.curves.get(name, ())))
    judged = judgement or evaluation.shown(found.last)
    if not evaluation.was_evaluated(found.last):
        return table
    side = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    shown = evaluation.HEADER if judgement else evaluation.HEADER[:4]
    for at, title in enumerate(shown):
        side.add_column(title, justify="right" if 1 <= at <= 3 else "left", overflow="fold")
    for row in judged.rows:
        side.add_row(*row[: len(shown)])
    return Group(table, "", side)


def metrics_markdown(found: JobMetrics, judgement: Judgement | None = None) -> str:
    """Metrics for the job summary, the training loss as a chart."""
    from mlops.core.console import markdown_table
    from mlops.training import curves, evaluation

    rows = [
        [name, f"{value:.5g}"] for name, value in sorted(found.last.items()) if not evaluation.is_of_evaluation(name)
    ]
    parts = [f"### Training {found.job}", markdown_table(["metric", "value"], rows)]
    if evaluation.was_evaluated(found.last):
        judged = judgement or evaluation.shown(found.last)
        parts.append(markdown_table(evaluation.HEADER, judged.rows))
    parts.append(curves.mermaid(found.curves.get("train_loss", ()), title="training loss"))
    return "\n\n".join(parts)
