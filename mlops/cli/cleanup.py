"""mlops cleanup."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import click

from mlops.cli.options import Run, command, option

if TYPE_CHECKING:
    from rich.table import Table

    from mlops.cleanup import CleanupPlan, Decision, Result, Saving

HEADER = ["what", "why", "age", "per month"]
VERBS = {
    "delete": ("delete", "deleted"),
    "archive": ("archive", "archived"),
    "scale_down": ("scale down", "scaled down"),
    "keep": ("keep", "kept"),
}
KINDS = {"endpoint": "endpoints", "slot": "slots", "version": "model versions", "cluster": "clusters"}


@command(
    example="""
mlops cleanup --older-than 7d            # what would go; asks before it deletes
mlops cleanup --older-than 7d --yes --keep-versions 10 --scale-down-clusters
"""
)
@option(
    "--older-than",
    metavar="AGE",
    help="Age from which previews are stale: 7d, 12h, 30m. [default: cleanup.older_than_days]",
)
@option(
    "--keep-versions",
    type=click.IntRange(1),
    metavar="K",
    help="Archive model versions beyond the newest K that are neither deployed nor a rollback target.",
)
@click.option("--scale-down-clusters", is_flag=True, help="Set the minimum node count of idle clusters to 0.")
@click.option(
    "--dry-run",
    is_flag=True,
    envvar="MLOPS_DRY_RUN",
    help="Print what would be deleted and why; the default when not on a terminal.",
)
@click.option("--yes", is_flag=True, help="Skip the confirmation prompt.")
def cleanup(
    run: Run, older_than: str | None, keep_versions: int | None, scale_down_clusters: bool, dry_run: bool, yes: bool
) -> None:
    """Delete stale previews, idle slots and failed deployments.

    Never touched: the lasting endpoint, a slot with traffic, what is tagged keep, what this repository did not make,
    and what a rollout is under way on. A preview has traffic by nature, so its age decides; the tag keep protects it.

    Without --yes it asks on a terminal, and is a dry run anywhere else. Exit code 8: some could not be deleted, the
    others are.
    """
    from mlops import cleanup as steps
    from mlops.azure.session import connect
    from mlops.core.timespan import timespan

    given = run.settings.cleanup
    age = timespan(older_than or f"{given.older_than_days:g}d", bare="d", what="age")
    session = connect(run.settings, run.console)
    with run.console.step("Look at the workspace") as step:
        cleanup_plan = steps.plan(
            session,
            older_than=age,
            keep_versions=keep_versions or given.keep_versions,
            scale_down=scale_down_clusters or given.scale_down_clusters,
        )
        step.note = f"{len(cleanup_plan.decisions)} looked at, {len(cleanup_plan.stale)} stale"
    results: list[Result] = []
    wet = bool(cleanup_plan.stale) and not dry_run
    if wet and not yes:
        wet = sys.stdin.isatty()
        if wet:
            run.console.err.print(_table(cleanup_plan, given.currency))
            wet = click.confirm(f"Go on with {_count(cleanup_plan.stale)}?", err=True)
    if wet:
        with run.console.step(f"Clean up {_count(cleanup_plan.stale)}") as step:
            results = steps.apply_decisions(session, cleanup_plan.decisions, steps.rules(run.settings, older_than=age))
            if any(result.outcome == "failed" for result in results):
                step.outcome = "failed"
    elif cleanup_plan.stale and not dry_run:
        run.console.say("nothing was deleted; --yes deletes")
    _show(run, cleanup_plan, results, wet=wet)
    error = steps.failure(results, cleanup_plan.problems)
    if error is not None:
        dataclasses.replace(run.console, as_json=False).failure(error)  # stdout has its document already
        raise click.exceptions.Exit(error.exit_code)


def _show(run: Run, plan: CleanupPlan, results: list[Result], *, wet: bool) -> None:
    from mlops.cleanup import Saving
    from mlops.core.console import markdown_table, plain

    currency = run.settings.cleanup.currency
    done = [result.decision for result in results if result.outcome == "done"]
    counted = done if wet else plan.stale
    total = sum((item.saving for item in counted), Saving())
    line = f"{_count(counted)} {'cleaned up' if wet else 'would go'}{_saving_in_words(total, currency)}"
    table = _table(plan, currency, results)
    table.caption = line
    rows = [_row(item, currency, _outcomes(results)) for item in _sorted(plan)]
    outcomes = [result.outcome for result in results]
    data = {
        "dry_run": not wet,
        "decisions": [{**plain(item), "title": item.title} for item in plan.decisions],
        "results": results,
        "problems": plan.problems,
        "totals": {
            "stale": len(plan.stale),
            "kept": len(plan.decisions) - len(plan.stale),
            **{outcome: outcomes.count(outcome) for outcome in ("done", "spared", "failed")},
            "saving_per_month": round(total.per_month, 2),
            "currency": currency,
            "unpriced": total.unpriced,
        },
    }
    table_text = markdown_table(["", *HEADER], rows) if rows else "There is nothing to clean up."
    run.console.result(
        data,
        table if rows else "there is nothing to clean up",
        outputs={"deleted": len(done), "stale": len(plan.stale), "saving-per-month": round(total.per_month, 2)},
        summary=f"### Cleanup{'' if wet else ' (dry run)'}\n\n{line}\n\n{table_text}",
    )


def _saving_in_words(total: Saving, currency: str) -> str:
    amounts = [f"about {total.per_month:,.0f} {currency} a month"] if total.per_month else []
    if total.unpriced:
        amounts.append(f"what has no price in the settings ({', '.join(total.unpriced)})")
    return f"; saves {' and '.join(amounts)}, an estimate by cleanup.prices_per_hour" if amounts else ""


def _count(items: Sequence[Decision]) -> str:
    counts = {plural: sum(item.kind == kind for item in items) for kind, plural in KINDS.items()}
    counted = [f"{n} {plural.removesuffix('s') if n == 1 else plural}" for plural, n in counts.items() if n]
    return ", ".join(counted) or "nothing"


def _outcomes(results: Sequence[Result]) -> dict[tuple[str, str], Result]:
    return {(result.decision.kind, result.decision.title): result for result in results}


def _sorted(plan: CleanupPlan) -> list[Decision]:
    """What goes first, then what stays."""
    return [item for action in VERBS for item in plan.decisions if item.action == action]


def _verb(item: Decision, outcomes: Mapping[tuple[str, str], Result]) -> str:
    result = outcomes.get((item.kind, item.title))
    if result is None:
        return VERBS[item.action][0]
    return VERBS[item.action][1] if result.outcome == "done" else result.outcome


def _row(item: Decision, currency: str, outcomes: Mapping[tuple[str, str], Result]) -> list[str]:
    from datetime import timedelta

    from mlops.cleanup.inventory import in_words

    result = outcomes.get((item.kind, item.title))
    why = item.why if result is None or result.outcome == "done" else result.why
    age = in_words(timedelta(seconds=item.age_s)) if item.age_s is not None else ""
    return [_verb(item, outcomes), item.title, why, age, item.saving.in_words(currency) if item.stale else ""]


def _table(plan: CleanupPlan, currency: str, results: Sequence[Result] = ()) -> Table:
    """One heading per verb; a slot stands under its endpoint, so that names fit on a terminal."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, caption_justify="left", caption_style="bold")
    for title in HEADER:
        table.add_column(title, overflow="fold", justify="right" if title == "per month" else "left")
    outcomes = _outcomes(results)
    heading, above = "", ""
    for item in _sorted(plan):
        verb, title, *rest = _row(item, currency, outcomes)
        if verb != heading:
            heading, above = verb, ""
            table.add_row(verb.upper(), style="bold")
        whole, mark, part = title.partition("/" if item.kind == "slot" else ":")
        name = whole if not mark else f"  {part}" if whole == above else f"{whole}\n  {part}"
        above = whole
        table.add_row(name, *([f"\n{cell}" for cell in rest] if "\n" in name else rest))
    return table
