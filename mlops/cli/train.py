"""mlops train: what is trained, and its submission."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mlops.cli.options import Run, Timespan, command, option

if TYPE_CHECKING:
    from rich.console import RenderableType

    from mlops.azure.session import Session
    from mlops.training.submit import Submitted, TrainingData, TrainingPlan


@command(
    example="""
mlops train                             # prepare the data, submit, follow to the end
mlops train --epochs 1 --percent 1      # a small one, to see that all goes well
mlops train --set learning_rate=1e-5    # one parameter of the pipeline for this run
mlops train --dry-run                   # the plan, and where each parameter comes from
mlops train --detach --json             # submit and leave; mlops wait JOB goes on
"""
)
@option("--data", "folder", type=click.Path(path_type=Path), help="A folder that `mlops data prepare` wrote.")
@option(
    "--base-model",
    metavar="MODEL",
    help="A model of the hub (owner/name) or the registry (name, name:version).  [default: base_model]",
)
@option(
    "--percent",
    type=click.FloatRange(0, 100, min_open=True),
    help="How much of each split is prepared.  [default: data.percent]",
)
@option("--epochs", type=click.IntRange(1), help="The parameter num_train_epochs.")
@click.option("--set", "overrides", multiple=True, metavar="NAME=VALUE", help="Override a parameter of the pipeline.")
@option("--reason", help="Why you train; kept as a tag of the job and its model.")
@click.option("--detach", is_flag=True, help="Submit and exit without following the job.")
@option(
    "--force",
    old_names=["--again"],
    is_flag=True,
    help="Train again even if a completed job with the same inputs exists.",
)
@click.option("--dry-run", is_flag=True, envvar="MLOPS_DRY_RUN", help="Print the plan; submit and create nothing.")
@option("--timeout", "timeout_s", type=Timespan(), help="Stop waiting after this time (90s, 45m, 5h); exit code 9.")
@click.option("--cancel-on-interrupt", is_flag=True, help="Cancel the job on Ctrl-C instead of leaving it running.")
def train(
    run: Run,
    folder: Path | None,
    base_model: str | None,
    percent: float | None,
    epochs: int | None,
    overrides: tuple[str, ...],
    reason: str | None,
    detach: bool,
    force: bool,
    dry_run: bool,
    timeout_s: float | None,
    cancel_on_interrupt: bool,
) -> None:
    """Submit the chat_completion pipeline and follow it.

    A job is named after what decides its result, so a second call finds the job that runs or has completed.
    """
    from mlops.azure.session import connect
    from mlops.cli.data import prepared
    from mlops.cli.wait import followed, show_finished
    from mlops.core.errors import UsageError
    from mlops.training import submit

    if folder is not None and percent is not None:
        raise UsageError(
            f"--percent says nothing of '{folder}', which is prepared", hint="mlops data prepare --percent"
        )
    run.settings = submit.chosen(run.settings, base_model=base_model, percent=percent)
    settings, console = run.settings, run.console
    parameters = {**parse(overrides), **({} if epochs is None else {"num_train_epochs": epochs})}
    data = prepared(run, folder)
    session = connect(settings, console)
    plan = make_plan(run, session, data, parameters, create_compute=not dry_run, reason=reason or "")
    if dry_run:
        console.result({"plan": plan_data(plan), "dry_run": True}, plan_table(plan), summary=plan_markdown(plan))
        return
    console.err.print(plan_table(plan))
    submitted = submit_plan(run, session, plan, force=force)
    job = submitted.job
    if detach:
        outcome = {
            "job": job.name,
            "status": job.status,
            "url": job.studio_url,
            "reused": not submitted.is_new,
            "fingerprint": plan.fingerprint,
        }
        note = "" if submitted.is_new else ": the job of the same content that was there"
        text = f"{job.name} is {job.status}{note}\nnext: mlops wait {job.name}{run.target_flag}"
        console.result(outcome, text, summary=plan_markdown(plan, submitted))
        return
    progress = followed(run, session, job.name, timeout_s=timeout_s, cancel_on_interrupt=cancel_on_interrupt)
    show_finished(run, session, progress)


# -- shared with `mlops run` -------------------------------------------------------------------------------------------


def parse(overrides: tuple[str, ...]) -> dict[str, Any]:
    """``NAME=VALUE`` pairs, values read as YAML scalars."""
    import yaml

    from mlops.core.errors import UsageError

    parameters: dict[str, Any] = {}
    for text in filter(str.strip, overrides):
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
        parameters[name.strip()] = read
    return parameters


def make_plan(
    run: Run,
    session: Session,
    data: TrainingData,
    overrides: dict[str, Any],
    *,
    create_compute: bool,
    reason: str = "",
) -> TrainingPlan:
    """Decide the job, with the run's lineage as tags."""
    from mlops.core import lineage
    from mlops.training import submit

    with run.console.step("Check model and cluster"):
        return submit.plan(
            session,
            run.settings,
            data,
            create_compute=create_compute,
            tags=lineage.tags(run.settings.root, reason=reason),
            overrides=overrides,
        )


def submit_plan(run: Run, session: Session, plan: TrainingPlan, *, force: bool) -> Submitted:
    """Submit, or say which job is there already."""
    from mlops.training.submit import submit as submit_job

    with run.console.step("Submit the pipeline") as step:
        submitted = submit_job(session, run.settings, plan, force=force)
        step.note = (
            submitted.job.name
            if submitted.is_new
            else f"{submitted.job.name} is there already ({submitted.job.status})"
        )
    outputs = {
        "job": submitted.job.name,
        "fingerprint": plan.fingerprint,
        "reused": not submitted.is_new,
        "completed": submitted.job.is_completed,
    }
    run.console.outputs(outputs)  # a workflow can go on from here even if following the job ends badly
    return submitted


def plan_data(plan: TrainingPlan) -> dict[str, Any]:
    """The plan for --json."""
    return {
        "job": plan.job_name(1),
        "display_name": plan.display_name,
        "experiment": plan.experiment,
        "base_model": plan.base_model,
        "component": plan.component,
        "compute": plan.compute,
        "gpus_per_node": plan.gpus_per_node,
        "parameters": {item.name: {"value": item.value, "from": item.source} for item in plan.parameters},
        "tags": dict(plan.tags),
    }


def plan_table(plan: TrainingPlan) -> RenderableType:
    """The plan: what is trained, and each parameter with where it came from."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    sources = {"setting": "mlops.yaml or an option", "model": "the base model", "default": "default"}
    facts = [
        plan.display_name,
        f"  base model  {plan.base_model}",
        f"  pipeline    {plan.component}",
        f"  cluster     {plan.compute}, {plan.gpus_per_node} GPU per node, {plan.nodes} node(s)",
        f"  job         {plan.job_name(1)[:-2]}",
    ]
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 2))
    for title in ("parameter", "value", "from"):
        table.add_column(title)
    for item in sorted(plan.parameters, key=lambda item: (item.source != "setting", item.name)):
        table.add_row(item.name, str(item.value), sources[item.source])
    return Group(Text("\n".join(facts)), table)


def plan_markdown(plan: TrainingPlan, submission: Submitted | None = None) -> str:
    """What is trained, for the job summary."""
    from mlops.core.console import markdown_table

    job = submission.job if submission else None
    label = f"`{job.name}`" if job else f"`{plan.job_name(1)}`"
    rows: list[list[Any]] = [
        ["job", f"[{label}]({job.studio_url})" if job and job.studio_url else label],
        *([["", "joined: it was there already"]] if submission and not submission.is_new else []),
        ["base model", plan.base_model],
        ["pipeline", plan.component],
        ["cluster", f"{plan.compute}, {plan.gpus_per_node} GPU per node, {plan.nodes} node(s)"],
        *([item.name, item.value] for item in plan.parameters if item.source == "setting"),
        *([name, plan.tags[name]] for name in ("reason", "commit", "actor") if plan.tags.get(name)),
    ]
    return f"### Training {plan.display_name}\n\n{markdown_table(['', ''], rows)}"
