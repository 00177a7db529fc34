"""mlops cleanup."""

from __future__ import annotations

import sys

import click

from mlops.cli.options import Run, command


@command(
    example="""
mlops cleanup --older-than 7d            # what would go; asks before it deletes
mlops cleanup --older-than 7d --yes
"""
)
@click.option("--older-than", metavar="AGE", help="7d, 12h, 30m; the settings' cleanup.older_than_days by default.")
@click.option("--dry-run", is_flag=True, help="Show what would be deleted and why.")
@click.option("--yes", is_flag=True, help="Delete without asking.")
def cleanup(run: Run, older_than: str | None, dry_run: bool, yes: bool) -> None:
    """Delete stale preview endpoints; what is live, tagged keep or not ours is never touched.

    Without --yes it asks on a terminal, and is a dry run anywhere else.
    """
    from rich.table import Table

    from mlops import cleanup as steps
    from mlops.azure.session import connect
    from mlops.console import markdown_table

    age = steps.age_of(older_than or f"{run.settings.cleanup.older_than_days:g}d")
    session = connect(run.settings, run.console)
    with run.console.step("Look at the endpoints"):
        decisions = steps.plan(session, older_than=age)
    doomed = [item.endpoint for item in decisions if item.delete]
    table = Table(box=None, pad_edge=False)
    for title in ("endpoint", "", "why"):
        table.add_column(title)
    rows = [[item.endpoint, "delete" if item.delete else "keep", item.why] for item in decisions]
    for row in rows:
        table.add_row(*row)
    deleted: list[str] = []
    wet = not dry_run and bool(doomed)
    if wet and not yes:
        run.console.err.print(table)
        wet = sys.stdin.isatty() and click.confirm(f"Delete {len(doomed)} endpoints with their deployments?", err=True)
    if wet:
        with run.console.step(f"Delete {len(doomed)} endpoints"):
            deleted = steps.delete(session, decisions)
    elif doomed and not dry_run:
        run.console.say("nothing was deleted; --yes deletes")
    run.console.result(
        {"decisions": decisions, "deleted": deleted, "dry_run": not wet},
        table if decisions else "no endpoints",
        outputs={"deleted": len(deleted), "stale": len(doomed)},
        summary=f"### Cleanup: {len(deleted)} deleted\n\n{markdown_table(['endpoint', '', 'why'], rows)}",
    )
