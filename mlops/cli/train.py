"""mlops train, wait, metrics."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mlops.cli.options import Run, command

if TYPE_CHECKING:
    from rich.console import RenderableType

    from mlops.azure.metrics import JobMetrics
    from mlops.azure.session import Session
    from mlops.training import Progress, TrainingData, TrainingPlan


ENDED_OR_RUNNING = frozenset({"Running", "Completed", "Failed", "Canceled", "Paused", "NotResponding"})
"""States of a step that are worth a line in a log."""


@command(
    example="""
mlops train                             # prepare the data, submit, follow to the end
mlops train --set num_train_epochs=1    # one parameter of the pipeline for this run
mlops train --dry-run                   # the plan, and where each parameter comes from
mlops train --detach --json             # submit and leave; mlops wait JOB goes on
"""
)
@click.option("--data", "folder", type=click.Path(path_type=Path), help="A folder that `mlops data prepare` wrote.")
@click.option("--set", "overrides", multiple=True, metavar="NAME=VALUE", help="Override a parameter of the pipeline.")
@click.option("--detach", is_flag=True, help="Submit and leave; do not follow the job.")
@click.option("--again", is_flag=True, help="Train anew even if a completed job of the same content exists.")
@click.option("--dry-run", is_flag=True, help="Show the plan; submit nothing, create nothing.")
@click.option("--timeout", "timeout_s", type=click.FloatRange(min=0), help="Give up waiting after so many seconds.")
@click.option("--cancel-on-interrupt", is_flag=True, help="Ctrl-C cancels the job instead of leaving it running.")
def train(
    run: Run,
    folder: Path | None,
    overrides: tuple[str, ...],
    detach: bool,
    again: bool,
    dry_run: bool,
    timeout_s: float | None,
    cancel_on_interrupt: bool,
) -> None:
    """Submit the chat_completion pipeline and follow it.

    A job is named after what decides its result, so a second call finds the job that runs or has completed.
    """
    from mlops.azure.session import connect
    from mlops.cli.data import prepared

    settings, console = run.settings, run.console
    wanted = parse(overrides)
    data = prepared(run, folder)
    session = connect(settings, console)
    made = make_plan(run, session, data, wanted, create_compute=not dry_run)
    if dry_run:
        console.result({"plan": plan_data(made), "dry_run": True}, plan_table(made))
        return
    console.err.print(plan_table(made))
    job = submit(run, session, made, again=again)
    if detach:
        text = f"{job.name} is {job.status}\nnext: mlops wait {job.name}"
        console.result(
            {"job": job.name, "status": job.status, "url": job.studio_url},
            text,
        )
        return
    progress = follow(run, session, job.name, timeout_s=timeout_s, cancel_on_interrupt=cancel_on_interrupt)
    show_finished(run, session, progress)


@command(example="mlops wait ft-0123456789abcdef-1 --timeout 3600")
@click.argument("job", required=False)
@click.option(
    "--timeout", "timeout_s", type=click.FloatRange(min=0), help="Give up after so many seconds, exit code 9."
)
@click.option("--cancel-on-interrupt", is_flag=True, help="Ctrl-C cancels the job instead of leaving it running.")
def wait(run: Run, job: str | None, timeout_s: float | None, cancel_on_interrupt: bool) -> None:
    """Follow a training job to its end (by default the newest one)."""
    from mlops.azure.session import connect

    session = connect(run.settings, run.console)
    name = job or newest_job(run, session)
    progress = follow(run, session, name, timeout_s=timeout_s, cancel_on_interrupt=cancel_on_interrupt)
    show_finished(run, session, progress)


@command(example="mlops metrics ft-0123456789abcdef-1 --plot loss.png")
@click.argument("job", required=False)
@click.option("--plot", type=click.Path(path_type=Path), help="Where to draw the loss curve (PNG).")
def metrics(run: Run, job: str | None, plot: Path | None) -> None:
    """Losses, throughput and scores of a training job (by default the newest one)."""
    from rich.console import Group

    from mlops.azure.session import connect

    session = connect(run.settings, run.console)
    name = job or newest_job(run, session)
    found = read_metrics(run, session, name)
    picture = draw_curve(run, found, plot)
    data = {"job": name, "metrics": dict(found.last), "curves": found.curves, "plot": picture}
    text = Group(metrics_table(found), *([f"curve: {picture}"] if picture else []))
    run.console.result(data, text, outputs=dict(found.last), summary=metrics_markdown(found))


# -- shared with `mlops run` -------------------------------------------------------------------------------------------


def parse(overrides: tuple[str, ...]) -> dict[str, Any]:
    """``NAME=VALUE`` pairs, values read as YAML scalars."""
    import yaml

    from mlops.errors import UsageError

    found: dict[str, Any] = {}
    for text in overrides:
        name, equals, value = text.partition("=")
        if not equals or not name.strip():
            raise UsageError(f"'{text}' is not NAME=VALUE", hint="for example --set num_train_epochs=1")
        try:
            read = yaml.safe_load(value) if value else ""
        except yaml.YAMLError:
            read = None
        if isinstance(read, str):
            with contextlib.suppress(ValueError):  # 5e-3 is a number to everybody but YAML
                read = float(read)
        if not isinstance(read, (bool, int, float, str)):
            raise UsageError(f"'{value}' is no value for '{name}'", hint="a number, true, false or a word")
        found[name.strip()] = read
    return found


def make_plan(
    run: Run, session: Session, data: TrainingData, overrides: dict[str, Any], *, create_compute: bool
) -> TrainingPlan:
    """Decide the job, with the run's lineage as tags."""
    from mlops import lineage, training

    with run.console.step("Check model and cluster"):
        return training.plan(
            session, run.settings, data,
            create_compute=create_compute, tags=lineage.tags(run.settings.root), overrides=overrides,
        )  # fmt: skip


def submit(run: Run, session: Session, made: TrainingPlan, *, again: bool) -> Any:
    """Submit, or say which job is there already."""
    from mlops import training

    with run.console.step("Submit the pipeline") as step:
        found = training.submit(session, run.settings, made, again=again)
        step.note = found.job.name if found.is_new else f"{found.job.name} is there already ({found.job.status})"
    outputs = {"job": found.job.name, "completed": found.job.is_completed}
    run.console.outputs(outputs)  # a workflow can go on from here even if following the job ends badly
    return found.job


def follow(run: Run, session: Session, name: str, *, timeout_s: float | None, cancel_on_interrupt: bool) -> Progress:
    """Wait with the steps in sight; Ctrl-C leaves the job running unless asked otherwise."""
    from mlops import training
    from mlops.azure import jobs
    from mlops.errors import AzureError, Interrupted

    try:
        with run.console.step(f"Train: {name}"), _steps_shown(run) as show:
            return training.wait(session, name, poll_s=run.settings.training.poll_s, timeout_s=timeout_s, show=show)
    except AzureError as error:
        error.hint = f"the job '{name}' does not depend on this command: mlops wait {name} follows it again"
        raise
    except KeyboardInterrupt:
        if cancel_on_interrupt:
            jobs.cancel(session, name)
            raise Interrupted(f"the job '{name}' is being cancelled", hint=f"mlops wait {name}") from None
        raise Interrupted(f"the job '{name}' goes on running", hint=f"mlops wait {name} follows it again") from None


@contextlib.contextmanager
def _steps_shown(run: Run) -> Iterator[Any]:
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
            shown = Table(box=None, pad_edge=False)
            for title in ("step", "state", "time"):
                shown.add_column(title)
            for step in progress.steps:
                shown.add_row(step.display_name, step.status, f"{step.seconds:.0f} s" if step.seconds else "")
            shown.add_row(progress.job.name, progress.job.status, "", style="bold")
            live.update(Group(shown, Text(progress.job.studio_url or "", overflow="fold")))

        yield table


def newest_job(run: Run, session: Session) -> str:
    """The newest job of this experiment that mlops submitted."""
    from mlops.azure import jobs
    from mlops.errors import PreconditionError

    found = jobs.newest(session, run.settings.experiment)
    if found is None:
        raise PreconditionError(f"no training job in '{run.settings.experiment}'", hint="mlops train submits one")
    return found.name


def read_metrics(run: Run, session: Session, name: str) -> JobMetrics:
    """What the job and its steps logged."""
    from mlops.azure import jobs, metrics
    from mlops.errors import PreconditionError

    if jobs.get(session, name) is None:
        raise PreconditionError(f"there is no job '{name}'", hint="mlops train submits one")
    steps = tuple(step.name for step in jobs.steps(session, name))
    return metrics.read(session, name, experiment=run.settings.experiment, steps=steps)


def draw_curve(run: Run, found: JobMetrics, path: Path | None) -> str | None:
    """The loss curve as a PNG, in the reports folder unless a path is given; None without a curve."""
    from mlops import curves

    if not any(found.curves.values()):
        return None
    place = path or run.settings.home / "reports" / f"{found.job}-loss.png"
    return str(curves.draw(found.curves, place, title=found.job))


def show_finished(run: Run, session: Session, progress: Progress) -> None:
    """The result of `train` and `wait`: steps, metrics, the next command."""
    from rich.console import Group

    found = read_metrics(run, session, progress.job.name)
    picture = draw_curve(run, found, None)
    steps = [{"step": s.display_name, "status": s.status, "seconds": s.seconds} for s in progress.steps]
    data = {
        "job": progress.job.name,
        "status": progress.job.status,
        "url": progress.job.studio_url,
        "steps": steps,
        "metrics": dict(found.last),
        "plot": picture,
    }
    curve = [f"curve: {picture}"] if picture else []
    text = Group(metrics_table(found), *curve, f"next:  mlops register {progress.job.name}")
    outputs = {"job": progress.job.name, "completed": progress.job.is_completed}
    run.console.result(data, text, outputs=outputs, summary=metrics_markdown(found))


def plan_data(made: TrainingPlan) -> dict[str, Any]:
    """The plan for --json."""
    return {
        "job": made.job_name(1),
        "display_name": made.display_name,
        "experiment": made.experiment,
        "base_model": made.base_model,
        "component": made.component,
        "compute": made.compute,
        "gpus_per_node": made.gpus_per_node,
        "parameters": {item.name: {"value": item.value, "from": item.source} for item in made.parameters},
        "tags": dict(made.tags),
    }


def plan_table(made: TrainingPlan) -> RenderableType:
    """The plan: what is trained, and each parameter with where it came from."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    words = {"setting": "mlops.yaml or --set", "model": "the base model", "default": "default"}
    facts = [
        made.display_name,
        f"  base model  {made.base_model}",
        f"  pipeline    {made.component}",
        f"  cluster     {made.compute}, {made.gpus_per_node} GPU per node, {made.nodes} node(s)",
        f"  job         {made.job_name(1)[:-2]}",
    ]
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 2))
    for title in ("parameter", "value", "from"):
        table.add_column(title)
    for item in sorted(made.parameters, key=lambda item: (item.source != "setting", item.name)):
        table.add_row(item.name, str(item.value), words[item.source])
    return Group(Text("\n".join(facts)), table)


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
