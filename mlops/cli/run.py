"""mlops run: the main job, end to end."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import click

from mlops.cli.options import Run, command, option


@command(example="mlops run\nmlops run --reuse      # deploy the model of a completed job of the same content")
@click.option(
    "--reuse",
    is_flag=True,
    help="Use the completed job with the same inputs, if there is one, instead of training again.",
)
@click.option("--set", "overrides", multiple=True, metavar="NAME=VALUE", help="Override a parameter of the pipeline.")
@option("--accept", metavar="REASON", help="Release a model that fails its evaluation; the reason is recorded.")
def run(run: Run, reuse: bool, overrides: tuple[str, ...], accept: str | None) -> None:
    """Run everything: data, training, gated deployment."""
    from mlops.azure.session import connect
    from mlops.cli import train, training_views
    from mlops.cli.data import prepared
    from mlops.cli.deploy import gate_rows
    from mlops.cli.register import check_reason, register_job
    from mlops.cli.wait import followed
    from mlops.core.errors import AzureError
    from mlops.gate import draw, load_rows, payload
    from mlops.rollout.deploy import deploy
    from mlops.scoring.client import scorer

    settings, console = run.settings, run.console
    check_reason(accept)
    parameters = train.parse(overrides)
    with console.step("Prepare the chats") as step:
        data = prepared(run, None)
        step.note = f"{data.rows.get(settings.data.train_split, 0)} to train on"
    with console.step("Open the workspace") as step:
        session = connect(settings, console)
        step.note = f"{session.ml.workspace_name} in {session.ml.resource_group_name}"
    plan = train.make_plan(run, session, data, parameters, create_compute=True)
    job = train.submit_plan(run, session, plan, force=not reuse).job
    followed(run, session, job.name, timeout_s=None, cancel_on_interrupt=False)
    with console.step("Read the metrics") as step:
        metrics = training_views.read_metrics(session, job.name)
        step.note = scores(metrics.last)
        training_views.draw_curve(run, metrics, None)
    model = register_job(run, session, job.name, accept=accept).model
    rows = gate_rows(run, data)
    with console.step("Release") as step:
        outcome = deploy(session, settings, model, test_rows=rows)
        step.note = f"{outcome.slot} has the traffic"
    sample = draw(load_rows(rows), count=1, seed=settings.gate.seed + 1)[0]
    with console.step("Ask a question"):
        asker = scorer(session, outcome.endpoint, timeout_s=settings.gate.timeout_s)
        answer = asker.ask(payload(sample, settings.gate.parameters))
        if not answer.ok:
            raise AzureError(f"the endpoint did not answer: {answer.error}", hint="mlops endpoint logs")
    question = sample.messages[-1]["content"]
    result = {
        "job": job.name,
        "model": model.name,
        "version": model.version,
        "outcome": outcome,
        "metrics": dict(metrics.last),
        "question": question,
        "answer": answer.texts[0],
        "steps": [{"step": item.title, "seconds": round(item.seconds, 1)} for item in console.steps],
    }
    outputs = {
        "job": job.name,
        "version": model.version,
        "endpoint": outcome.endpoint,
        "slot": outcome.slot,
        "report": str(outcome.report_folder or ""),
    }
    text = closing(run, outcome, question, answer.texts[0])
    console.result(result, text, outputs=outputs, summary=summary(run, metrics, outcome))


def scores(last: Any) -> str:
    """Base against tuned, in a few words."""
    if "tuned_exact_match" not in last:
        return ""
    return f"exact match {last.get('base_exact_match', 0):.2f} → {last['tuned_exact_match']:.2f}"


def activation() -> list[str]:
    """The line that makes the shell find `mlops`, where it does not: `make run` needs no activated environment."""
    script = Path(sys.prefix) / "bin" / "activate"
    if shutil.which("mlops") or not script.is_file():
        return []
    path = script.relative_to(Path.cwd()) if script.is_relative_to(Path.cwd()) else script
    return [f"  {f'source {path}':<29} activate the environment, once per shell"]


def closing(run: Run, outcome: Any, question: str, answer: str) -> Any:
    """The closing table, the answer, and what to type next."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    table = Table(title="What happened", title_justify="left", show_edge=False)
    table.add_column("step", overflow="fold")
    table.add_column("s", justify="right")
    table.add_column("result", overflow="fold")
    depth = [item for item in run.console.steps if item.depth == 0]
    for item in depth:
        table.add_row(item.title, f"{item.seconds:.1f}", item.note)
    table.add_section()
    table.add_row("all", f"{sum(item.seconds for item in depth):.1f}", "")
    traffic = ", ".join(f"{name} {share} %" for name, share in outcome.traffic.items())
    after = [
        ("mlops chat", "ask it yourself"),
        ("mlops ui", "open the dashboard"),
        ("mlops endpoint status", "slots and traffic"),
        *([("mlops rollback", "roll back to the previous version")] if outcome.before else []),
        ("mlops metrics", "losses and scores"),
        *([("mlops local stop", "stop the local workspace")] if run.settings.is_local else []),
    ]
    lines = [
        "",
        f"{outcome.model}:{outcome.version} is live in {outcome.slot} of {outcome.endpoint} ({traffic})",
        f"  Q: {question}",
        f"  A: {answer}",
        "",
        "next:",
        *activation(),
        *(f"  {command + run.target_flag:<{30 + len(run.target_flag)}}{text}" for command, text in after),
    ]
    return Group(table, Text("\n".join(lines)))


def summary(run: Run, metrics: Any, outcome: Any) -> str:
    """The job summary: steps, metrics, gate."""
    from mlops import gate
    from mlops.cli.training_views import metrics_markdown
    from mlops.core.console import markdown_table

    rows = [[item.title, f"{item.seconds:.1f}", item.note] for item in run.console.steps if item.depth == 0]
    text = f"### {outcome.model}:{outcome.version} is live in {outcome.slot}\n\n"
    text += markdown_table(["step", "seconds", "result"], rows) + "\n\n" + metrics_markdown(metrics)
    if outcome.report is not None:
        text += "\n\n" + gate.to_markdown(outcome.report)
    return text
