"""mlops deploy."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mlops.cli.options import Run, Timespan, argument, command, option

if TYPE_CHECKING:
    from mlops.config.settings import Settings
    from mlops.rollout.dry_run import DryRun
    from mlops.rollout.result import RolloutResult
    from mlops.training.submit import TrainingData


@command(
    example="""
mlops deploy                  # the newest registered version
mlops deploy 1763628000       # that version
mlops deploy --preview        # an endpoint of its own, deleted by cleanup
mlops deploy --dry-run
"""
)
@argument("version")
@option("--data", "folder", type=click.Path(path_type=Path), help="Prepared data for the gate.")
@click.option(
    "--preview", is_flag=True, envvar="MLOPS_PREVIEW", help="Deploy to an endpoint of its own, named with a timestamp."
)
@click.option("--force", is_flag=True, help="Deploy again even if this version is live.")
@option("--skip-gate", metavar="REASON", help="Skip the gate and the soak; the reason is recorded.")
@option("--steps", metavar="10,50,100", help="Traffic percentages, in order, instead of the settings'.")
@option(
    "--soak",
    "soak_s",
    type=Timespan(),
    help="How long each traffic step is monitored (60s, 5m), instead of the settings'.",
)
@click.option("--dry-run", is_flag=True, envvar="MLOPS_DRY_RUN", help="Print the plan; change nothing.")
def deploy(
    run: Run,
    version: str | None,
    folder: Path | None,
    preview: bool,
    force: bool,
    skip_gate: str | None,
    steps: str | None,
    soak_s: float | None,
    dry_run: bool,
) -> None:
    """Deploy a model version blue/green, behind the gate.

    It goes to the idle slot and gets the traffic, step by step, once it passes the gate.

    A failed gate leaves the traffic as it was (exit code 6).
    """
    from mlops.azure.session import connect
    from mlops.cli.data import prepared
    from mlops.core.errors import UsageError
    from mlops.rollout.deploy import deploy as deploy_version
    from mlops.rollout.dry_run import dry_run as plan_deploy
    from mlops.training import register

    if skip_gate is not None and not skip_gate.strip():
        raise UsageError("--skip-gate needs a reason", hint="it is recorded with the deployment")
    settings = with_steps(run.settings, steps, soak_s)
    session = connect(settings, run.console)
    model = register.find(session, settings, version)
    if dry_run:
        planned = plan_deploy(session, settings, model, preview=preview, skip_gate=skip_gate is not None, force=force)
        data = {
            "plan": planned.plan,
            "preflight": planned.preflight,
            "notes": planned.notes,
            "model": model.name,
            "version": model.version,
            "dry_run": True,
        }
        label = f"{model.name}:{model.version}"
        run.console.result(
            data,
            plan_text(planned, label),
            summary=f"### Plan for {label}\n\n```text\n{plan_text(planned, label)}\n```",
        )
        return
    rows = gate_rows(run, prepared(run, folder))
    outcome = deploy_version(
        session, settings, model, test_rows=rows, preview=preview, force=force, skip_gate=skip_gate
    )
    show(run, outcome)


def with_steps(settings: Settings, steps: str | None, soak_s: float | None) -> Settings:
    """The settings with the rollout that the command line asks for.

    Raises:
        UsageError: the steps are no rising percentages that end at 100.
    """
    from pydantic import ValidationError

    from mlops.config.settings import Rollout
    from mlops.core.errors import UsageError

    change: dict[str, Any] = {}
    if steps is not None:
        change["steps"] = [part.strip().rstrip("%") for part in steps.split(",")]
    if soak_s is not None:
        change["soak_s"] = soak_s
    try:
        rollout = Rollout.model_validate({**settings.rollout.model_dump(), **change})
    except ValidationError as error:
        reason = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise UsageError(f"--steps is '{steps}': {reason}", hint="for example --steps 10,50,100") from None
    return settings.model_copy(update={"rollout": rollout})


def gate_rows(run: Run, data: TrainingData) -> Path:
    """The split that the gate draws from; data that was cut in two has only `test`."""
    named = data.folder / f"{run.settings.gate.split}.jsonl"
    return named if named.is_file() else data.test


def show(run: Run, outcome: RolloutResult) -> None:
    """What a deploy or a rollback did."""
    from mlops import gate
    from mlops.core.console import markdown_table

    now = ", ".join(f"{name} {share} %" for name, share in outcome.traffic.items()) or "none"
    before = ", ".join(f"{name} {share} %" for name, share in outcome.before.items()) or "none"
    verb = "is live" if outcome.changed else "was live already"
    named = "" if outcome.endpoint == run.settings.endpoint.name else f" --endpoint {outcome.endpoint}"
    way_back = f"mlops rollback{run.target_flag}{named}"
    has_way_back = any(name != outcome.slot for name in outcome.before)
    lines = [
        f"{outcome.model}:{outcome.version} {verb} in {outcome.slot} of {outcome.endpoint}",
        f"traffic: {now} (before: {before})",
        *([f"gate:    {outcome.report_folder}"] if outcome.report_folder else []),
        f"url:     {outcome.scoring_url}",
        f'next:    mlops endpoint score "…"{run.target_flag}{named}'
        + (f"   ·   the way back: {way_back}" if has_way_back else ""),
    ]
    rows: list[list[Any]] = [
        ["before", f"{before}: {outcome.replaced}" if outcome.replaced else before],
        ["now", f"{now}: {outcome.model}:{outcome.version}"],
        ["url", outcome.scoring_url],
        *([["way back", f"`{way_back}`"]] if has_way_back else []),
    ]
    summary = f"### {outcome.model}:{outcome.version} {verb}\n\n{markdown_table(['', outcome.endpoint], rows)}"
    if outcome.report is not None:
        summary += "\n\n" + gate.to_markdown(outcome.report)
    if outcome.skipped_gate:
        summary += f"\n\n**The gate was skipped**: {outcome.skipped_gate}"
    outputs: dict[str, Any] = {
        "endpoint": outcome.endpoint,
        "slot": outcome.slot,
        "version": outcome.version,
        "url": outcome.scoring_url or "",
        "changed": outcome.changed,
        "report": outcome.report_folder or "",
    }
    run.console.result(outcome, "\n".join(lines), outputs=outputs, summary=summary)


def plan_text(planned: DryRun, model: str) -> str:
    """A plan for people."""
    plan = planned.plan
    before = ", ".join(f"{name} {share} %" for name, share in plan.before.items()) or "none"
    mirror = [f"mirror {plan.mirror} %"] if plan.mirror else []
    way = " → ".join(
        [before, *([] if planned.skips_gate else ["gate", *mirror]), *(f"{share} %" for share in plan.steps)]
    )
    lines = [
        f"endpoint: {plan.endpoint}" + (" (is created)" if plan.creates_endpoint else ""),
        f"model:    {model}",
        f"slot:     {plan.slot} ({plan.why})",
        f"traffic:  {way} on {plan.slot}",
        *(f"{name + ':':<9} {text}" for name, _, text in (line.partition(": ") for line in planned.preflight.lines())),
        *(f"note:     {note}" for note in planned.notes),
    ]
    return "\n".join(lines)
