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
    """Check and show the settings of mlops.yaml."""


@command(group=settings, example="mlops settings check")
@click.pass_context
def check(context: click.Context, run: Run) -> None:
    """Check every target of mlops.yaml, whatever --target says; exit code 2 if one is invalid."""
    from mlops.cli.violations import Violation, tell_github
    from mlops.core.errors import FileLocation, UsageError
    from mlops.doctor.settings_check import check as check_settings

    path, targets, problems = check_settings()
    violations = [Violation(FileLocation(file=path.name, line=problem.line), problem.message) for problem in problems]
    lines = [f"✕ {item.place}: {item.message}" for item in violations]
    run.console.result(
        {"valid": not problems, "file": path, "targets": targets, "problems": violations},
        "\n".join(lines) or f"✓ {path.name}: {', '.join(targets)}",
        outputs={"valid": not problems},
    )
    tell_github(run.console, violations, what=f"Settings of {', '.join(targets) or 'no target'}")
    if problems:
        context.exit(UsageError.exit_code)


@command(group=settings, example="mlops settings show --target staging")
def show(run: Run) -> None:
    """Show a target's settings with defaults filled in."""
    import yaml

    values = run.settings.model_dump(mode="json", exclude={"target", "root"})
    run.console.result(
        {"target": run.settings.target, **values}, yaml.safe_dump(values, sort_keys=False, allow_unicode=True).rstrip()
    )
