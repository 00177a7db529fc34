"""GitHub's variables: what the workflows of this target will find."""

from __future__ import annotations

import os

from mlops.azure.github import in_a_job
from mlops.core.errors import MlopsError, PreconditionError
from mlops.doctor.context import CheckContext
from mlops.doctor.findings import Finding, Mark, doubtful, good, skipped
from mlops.setup import github_cli

VARIABLES = (
    "AZURE_CLIENT_ID",
    "AZURE_TENANT_ID",
    "AZURE_SUBSCRIPTION_ID",
    "AZURE_RESOURCE_GROUP",
    "AZUREML_WORKSPACE_NAME",
    "AZURE_REGION",
)
COMPARED = ("AZURE_TENANT_ID", "AZURE_SUBSCRIPTION_ID", "AZURE_RESOURCE_GROUP", "AZUREML_WORKSPACE_NAME")
"""Those that name a place; whom a job logs in as is its own."""


def variables(context: CheckContext) -> Finding:
    """The variables of the target's environment on GitHub, against those of this machine."""
    if context.settings.is_local:
        return skipped("not looked at: the local workspace needs none")
    if in_a_job():
        return judged(context, {name: os.environ.get(name, "") for name in VARIABLES}, "this job", {})
    if not github_cli.installed():
        return skipped("not looked at: the program 'gh' is not installed")
    repository = github_cli.repository(context.settings.root)
    if repository is None:
        return skipped("not looked at: this checkout is of no repository on GitHub")
    try:
        values = github_cli.variables(repository, context.target)
    except github_cli.NotThereError:
        return doubtful(
            f"GitHub shows no environment '{context.target}' of {repository} to this login",
            f"mlops setup{context.target_flag} --github makes it",
        )
    except PreconditionError as error:  # `gh` has no login: nothing but the workflows needs GitHub
        return skipped(f"not looked at: {error.message}")
    except MlopsError as error:
        return doubtful(error.message, error.hint)
    here = {name: os.environ.get(name, "") for name in COMPARED}
    return judged(context, values, f"the environment '{context.target}' of {repository}", here)


def judged(context: CheckContext, values: dict[str, str], where: str, here: dict[str, str]) -> Finding:
    """What is said of the variables.

    Args:
        context: of the target.
        values: the variables, by name.
        where: they were found, in words.
        here: the same on this machine; an empty one is not compared.
    """
    missing = [name for name in VARIABLES if not values.get(name)]
    if missing:
        return doubtful(
            f"{where} has no {', '.join(missing)}: its workflows will not log in",
            f"mlops setup{context.target_flag} --github sets them",
        )
    others = [name for name, value in here.items() if value and value.lower() != values[name].lower()]
    if others:
        return Finding(
            mark=Mark.DOUBTFUL,
            what=f"{where} means another place than this machine",
            details=tuple(f"{name} is '{values[name]}' there, '{here[name]}' here" for name in others),
            hint="what is right here says nothing of the workflows then",
        )
    return good(f"all {len(VARIABLES)} are set for {where}")
