"""mlops deploy, rollback."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mlops.cli.options import Run, command

if TYPE_CHECKING:
    from mlops.rollout import Outcome
    from mlops.slots import Plan
    from mlops.training import TrainingData


@command(
    example="""
mlops deploy                  # the newest registered version
mlops deploy 1763628000       # that version
mlops deploy --preview        # an endpoint of its own, deleted by cleanup
mlops deploy --dry-run
"""
)
@click.argument("version", required=False)
@click.option("--data", "folder", type=click.Path(path_type=Path), help="Prepared data for the gate.")
@click.option("--preview", is_flag=True, help="Deploy to an endpoint of its own, named with a timestamp.")
@click.option("--force", is_flag=True, help="Deploy even if this version is live.")
@click.option("--skip-gate", metavar="REASON", help="Let the version pass without the gate; the reason is recorded.")
@click.option("--dry-run", is_flag=True, help="Show the plan; change nothing.")
def deploy(
    run: Run, version: str | None, folder: Path | None, preview: bool, force: bool, skip_gate: str | None, dry_run: bool
) -> None:
    """Deploy a model version into the idle slot, through the gate, into traffic.

    A failed gate leaves the traffic as it was (exit code 6).
    """
    from mlops import models, rollout, slots
    from mlops.azure import endpoints
    from mlops.azure.session import connect
    from mlops.cli.data import prepared
    from mlops.errors import UsageError

    if skip_gate is not None and not skip_gate.strip():
        raise UsageError("--skip-gate needs a reason", hint="it is recorded with the deployment")
    settings = run.settings
    session = connect(settings, run.console)
    model = models.find(session, settings, version)
    if dry_run:
        found = None if preview else endpoints.get(session, settings.endpoint.name)
        standing = endpoints.deployments(session, found.name) if found else []
        rollout.check_serving(session, settings, model)
        name = f"{settings.endpoint.preview_prefix}TIMESTAMP" if preview else settings.endpoint.name
        plan = slots.make_plan(settings, name, found, standing)
        data = {"plan": plan, "model": model.name, "version": model.version, "dry_run": True}
        run.console.result(data, plan_text(plan, f"{model.name}:{model.version}", settings.deployment.instance_type))
        return
    rows = gate_rows(run, prepared(run, folder))
    outcome = rollout.deploy(
        session, settings, model, test_rows=rows, preview=preview, force=force, skip_gate=skip_gate
    )  # fmt: skip
    show(run, outcome)


@command(
    example="""
mlops rollback                # to the slot that still stands
mlops rollback 1763628000     # to that version, redeployed if no slot holds it
"""
)
@click.argument("version", required=False)
@click.option("--skip-gate", metavar="REASON", help="Let a version through that has not passed the gate here.")
def rollback(run: Run, version: str | None, skip_gate: str | None) -> None:
    """Put the version before, or a named one, back into traffic.

    The gate is not asked again: what it has refused, or never seen, needs a name and a reason.
    """
    from mlops import models, rollout
    from mlops.azure.session import connect
    from mlops.errors import UsageError

    if skip_gate is not None and (version is None or not skip_gate.strip()):
        raise UsageError("--skip-gate needs a version and a reason", hint='mlops rollback VERSION --skip-gate "REASON"')
    session = connect(run.settings, run.console)
    model = models.find(session, run.settings, version) if version else None
    show(run, rollout.rollback(session, run.settings, version=model, skip_gate=skip_gate))


def gate_rows(run: Run, data: TrainingData) -> Path:
    """The split that the gate draws from; data that was cut in two has only `test`."""
    named = data.folder / f"{run.settings.gate.split}.jsonl"
    return named if named.is_file() else data.test


def show(run: Run, outcome: Outcome) -> None:
    """What a deploy or a rollback did."""
    from mlops import gate
    from mlops.console import markdown_table

    now = ", ".join(f"{name} {share} %" for name, share in outcome.traffic.items()) or "none"
    before = ", ".join(f"{name} {share} %" for name, share in outcome.before.items()) or "none"
    verb = "is live" if outcome.changed else "was live already"
    named = "" if outcome.endpoint == run.settings.endpoint.name else f" --endpoint {outcome.endpoint}"
    back = not named and any(name != outcome.slot for name in outcome.before)
    lines = [
        f"{outcome.model}:{outcome.version} {verb} in {outcome.slot} of {outcome.endpoint}",
        f"traffic: {now} (before: {before})",
        *([f"gate:    {outcome.report_folder}"] if outcome.report_folder else []),
        f"url:     {outcome.scoring_url}",
        f'next:    mlops endpoint score "…"{named}' + ("   ·   the way back: mlops rollback" if back else ""),
    ]
    rows: list[list[Any]] = [
        ["before", before],
        ["now", now],
        ["url", outcome.scoring_url],
        *([["way back", "`mlops rollback`"]] if back else []),
    ]
    summary = f"### {outcome.model}:{outcome.version} {verb}\n\n{markdown_table(['', outcome.endpoint], rows)}"
    if outcome.report is not None:
        summary += "\n\n" + gate.markdown(outcome.report)
    if outcome.skipped_gate:
        summary += f"\n\n**The gate was skipped**: {outcome.skipped_gate}"
    outputs: dict[str, Any] = {
        "endpoint": outcome.endpoint, "slot": outcome.slot, "version": outcome.version,
        "url": outcome.scoring_url or "", "changed": outcome.changed, "report": outcome.report_folder or "",
    }  # fmt: skip
    run.console.result(outcome, "\n".join(lines), outputs=outputs, summary=summary)


def plan_text(plan: Plan, model: str, size: str) -> str:
    """A plan for people."""
    before = ", ".join(f"{name} {share} %" for name, share in plan.before.items()) or "none"
    steps = " → ".join(f"{share} %" for share in plan.steps)
    return "\n".join(
        [
            f"endpoint: {plan.endpoint}" + (" (is created)" if plan.creates_endpoint else ""),
            f"model:    {model}",
            f"slot:     {plan.slot} ({plan.why})",
            f"machine:  {size}",
            f"traffic:  {before} → gate → {steps} on {plan.slot}",
        ]
    )
