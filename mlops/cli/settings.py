"""mlops settings check, show."""

from __future__ import annotations

import click

from mlops.cli.options import Run, command, epilog


@click.group(
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=epilog("""
mlops settings check
mlops settings show --target staging
"""),
)
def settings() -> None:
    """Check and show what mlops.yaml says."""


@command(group=settings, example="mlops settings check")
def check(run: Run) -> None:
    """Check the sections of every target; exit code 2 if one is wrong."""


@command(group=settings, example="mlops settings show --target staging")
def show(run: Run) -> None:
    """Show the settings of a target, the defaults merged in."""
