"""mlops reconcile."""

from __future__ import annotations

import click

from mlops.cli.options import Run, command


@command(example="mlops reconcile --dry-run\nmlops reconcile --target staging")
@click.option("--dry-run", is_flag=True, envvar="MLOPS_DRY_RUN", help="Show what would be done; change nothing.")
def reconcile(run: Run, dry_run: bool) -> None:
    """Go on with what outlived its workflow: completed trainings, failed ones, rollouts that were cut off."""
