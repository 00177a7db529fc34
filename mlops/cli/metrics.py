"""mlops metrics: what a training job has logged."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mlops.cli.options import Run, argument, command

if TYPE_CHECKING:
    from mlops.azure.session import Session


@command(example="mlops metrics ft-0123456789abcdef-1 --plot loss.png")
@argument("job")
@click.option("--plot", type=click.Path(path_type=Path), help="Write the loss curve to this PNG file.")
def metrics(run: Run, job: str | None, plot: Path | None) -> None:
    """Show losses, throughput and scores of a training job.

    Without JOB: the newest one.

    The evaluation's report, with the most changed answers side by side, is copied into .mlops/reports.
    """
    from rich.console import Group

    from mlops.azure.session import connect
    from mlops.cli import training_views
    from mlops.training import evaluation

    session = connect(run.settings, run.console)
    name = job or training_views.newest_job(run, session)
    logged = training_views.read_metrics(session, name)
    picture = training_views.draw_curve(run, logged, plot)
    report = fetch_report(run, session, name)
    if report and not evaluation.was_evaluated(logged.last):  # the tracking server lost what the step wrote as well
        logged = replace(logged, last={**logged.last, **evaluation.written_scores(Path(report).parent)})
    judgement = evaluation.judge(run.settings.training.evaluation, logged.last)
    data = {
        "job": name,
        "metrics": dict(logged.last),
        "curves": logged.curves,
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
        Group(training_views.metrics_table(logged, judgement), *notes),
        outputs=dict(logged.last),
        summary=training_views.metrics_markdown(logged, judgement),
    )


def fetch_report(run: Run, session: Session, job: str) -> str | None:
    """The evaluation's report, copied beside the other reports; None where the job made none or it cannot be had."""
    import shutil
    import tempfile

    from mlops.core.errors import MlopsError
    from mlops.training import register
    from mlops.training.evaluation import REPORT

    target = run.settings.home / "reports" / f"{job}-evaluation"
    if not (target / REPORT).is_file():
        with tempfile.TemporaryDirectory() as folder:
            try:
                downloaded = register.evaluation_report(session, job, Path(folder))
            except MlopsError as error:
                run.console.warn(f"the evaluation's report stays where it is: {error.message}")
                return None
            if downloaded is None or not (downloaded / REPORT).is_file():
                return None
            shutil.copytree(downloaded, target, dirs_exist_ok=True)
    return str(target / REPORT)
