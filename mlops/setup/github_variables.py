"""What GitHub has to know of the place: one environment per target, six variables each, no secret."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from urllib.parse import quote

from mlops.core.console import Console
from mlops.setup import github_cli
from mlops.setup.scope import CLIENT, VARIABLES, AzureScope


def variables(scope: AzureScope, client_id: str) -> dict[str, str]:
    """The six variables that a workflow's job reads."""
    values = {variable: str(getattr(scope, key)) for key, variable in VARIABLES.items()}
    return {CLIENT: client_id, **values}


def commands(repository: str | None, environments: Sequence[str], values: dict[str, str]) -> list[str]:
    """Lines of shell that tell GitHub; the same as :func:`hand_over` does."""
    repository_name = repository or "OWNER/NAME"
    lines = []
    for environment in environments:
        path = shlex.quote(f"repos/{repository_name}/environments/{quote(environment, safe='')}")
        lines.append(f"gh api --silent --method PUT {path}")
        lines += [
            f"gh variable set {name} --env {shlex.quote(environment)} --body {shlex.quote(value)}"
            + ("" if repository is None else f" --repo {shlex.quote(repository)}")
            for name, value in values.items()
        ]
    return lines


def hand_over(console: Console, repository: str, environments: Sequence[str], values: dict[str, str]) -> list[str]:
    """Create the environments that are missing and set their variables; says what that changed.

    Raises:
        MlopsError: `gh` is not logged in, or GitHub refused.
    """
    changed = []
    for environment in environments:
        with console.step(f"Tell GitHub: {environment} of {repository}") as step:
            now = [f"environment {environment}"] if github_cli.ensure_environment(repository, environment) else []
            known = github_cli.variables_of(repository, environment)
            now += [
                f"{environment}: {name}"
                for name, value in values.items()
                if github_cli.set_variable(repository, environment, name, value, known=known)
            ]
            step.note = f"{len(now)} changed" if now else "nothing to do"
        changed += now
    return changed
