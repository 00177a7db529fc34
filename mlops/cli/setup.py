"""mlops setup."""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from mlops.cli.options import Run, command, option
from mlops.setup import render as shown_as

if TYPE_CHECKING:
    from mlops.azure.management import Caller
    from mlops.azure.session import Session
    from mlops.setup.plan import Step
    from mlops.setup.scope import AzureScope
    from mlops.setup.survey import SetupRequest


@command(
    example="""
mlops setup -t staging --dry-run   # the plan, and nothing else
mlops setup -t staging --github    # makes all of it, tells GitHub; asks before
mlops setup -t staging --delete    # takes away what it has made
"""
)
@option("--subscription", metavar="ID", help="Instead of AZURE_SUBSCRIPTION_ID.")
@option("--group", metavar="NAME", help="Instead of AZURE_RESOURCE_GROUP.")
@option("--workspace", metavar="NAME", help="Instead of AZUREML_WORKSPACE_NAME.")
@option("--region", metavar="NAME", help="Instead of AZURE_REGION.")
@option("--tenant", metavar="ID", help="Instead of AZURE_TENANT_ID; the login's by default.")
@click.option(
    "--environment",
    "environments",
    multiple=True,
    metavar="NAME",
    help="GitHub environment whose jobs may log in (default: the target's name); can be repeated.",
)
@click.option(
    "--subject",
    "subjects",
    multiple=True,
    metavar="ENV=SUBJECT",
    help="OIDC subject to trust for an environment, when GitHub cannot be queried; can be repeated.",
)
@option("--repository", metavar="OWNER/NAME", help="GitHub repository (default: this checkout's remote).")
@click.option("--github", is_flag=True, help="Create the GitHub environments and their variables with gh.")
@click.option("--prompt-flow", is_flag=True, help="Also create a hub, a project and the connection for Prompt flow.")
@click.option(
    "--request-quota/--no-request-quota",
    "quota",
    default=None,
    help="Request missing quota again, or never (default: once).",
)
@click.option("--delete", is_flag=True, help="Delete everything that setup created here, with its contents.")
@click.option("--dry-run", is_flag=True, help="Print the plan and exit.")
@click.option("--yes", is_flag=True, help="Skip the confirmation prompt.")
def setup(
    run: Run,
    environments: Sequence[str],
    subjects: Sequence[str],
    repository: str | None,
    github: bool,
    prompt_flow: bool,
    quota: bool | None,
    delete: bool,
    dry_run: bool,
    yes: bool,
    **given: str | None,
) -> None:
    """Provision the Azure resources the workflows need.

    Workspace, cluster, identities, quota, and GitHub's variables.

    It looks at what is there, shows its plan, and asks. A second run changes nothing; one that was cut off goes on.
    What somebody else made is used, never changed beyond what is missing, never deleted.

    It needs somebody who may assign roles: Owner, or Contributor with User Access Administrator or Role Based Access
    Control Administrator. The workflows never do.
    """
    from mlops.setup.subjects import given as passed

    by_hand = passed(subjects)
    _check_names(environments, repository)
    session, scope, caller = _enter(run, given)
    if delete:
        _delete(run, session, scope, dry_run=dry_run, yes=yes)
        return
    run.console.say("it takes somebody who may assign roles: Owner, or Contributor with User Access")
    run.console.say("Administrator or Role Based Access Control Administrator")
    chosen_environments = list(environments or by_hand or ([] if run.settings.is_local else [run.target]))
    request, repository = _order(
        run, scope, chosen_environments, by_hand, repository, prompt_flow=prompt_flow, quota=quota
    )
    steps, group_exists = _plan(run, session, request)
    document = {
        "place": scope,
        "login": caller,
        "dry_run": dry_run,
        "parts": [shown_as.plain_part(step) for step in steps],
    }
    _refuse_or_ask(run, session, scope, caller, steps, document, group_exists=group_exists, dry_run=dry_run, yes=yes)
    if dry_run:
        return
    _make(run, session, request, steps, document, repository, github=github)


def _check_names(environments: Sequence[str], repository: str | None) -> None:
    """Refuse what can be no name on GitHub.

    Raises:
        UsageError: with what was given.
    """
    from mlops.core.errors import UsageError
    from mlops.setup import github_cli

    if repository is not None and not github_cli.is_name(repository):
        raise UsageError(f"--repository '{repository}' is not of the form OWNER/NAME")
    if not all(name.strip() for name in environments):
        raise UsageError("--environment is empty", hint="name a GitHub environment, as in --environment staging")


def _enter(run: Run, given: dict[str, str | None]) -> tuple[Session, AzureScope, Caller]:
    """Log in, and say who that is and where."""
    from mlops.azure import management
    from mlops.azure.session import connect
    from mlops.core.errors import UsageError
    from mlops.setup.scope import VARIABLES, in_tenant, scope_of

    if run.settings.is_local:
        if any(given.values()):
            option_names = ", ".join(f"--{name}" for name, value in given.items() if value)
            raise UsageError(f"{option_names}: the local workspace has its place", hint="choose another --target")
    else:
        scope = scope_of(given, run.settings.root)
        os.environ.update({VARIABLES[key]: str(getattr(scope, key)) for key in VARIABLES if getattr(scope, key)})
    session = connect(run.settings, run.console)
    scope = scope_of({}, run.settings.root)
    caller = management.caller(session)
    scope = in_tenant(scope, caller.tenant)
    run.console.say(f"logged in as {caller.name}, tenant {caller.tenant or scope.tenant}")
    run.console.say(f"workspace {scope.workspace} of group {scope.group} in {scope.region}")
    run.console.say(f"subscription {scope.subscription}")
    return session, scope, caller


def _order(
    run: Run,
    scope: AzureScope,
    environments: Sequence[str],
    passed: dict[str, str],
    repository: str | None,
    *,
    prompt_flow: bool,
    quota: bool | None,
) -> tuple[SetupRequest, str | None]:
    from mlops.setup import github_cli
    from mlops.setup.subjects import of_environments
    from mlops.setup.survey import SetupRequest

    known_repository = repository or github_cli.repository(run.settings.root)
    identity = run.settings.deployment.identity
    in_the_group = f"{scope.group_id}/providers/Microsoft.ManagedIdentity/userAssignedIdentities/".lower()
    if identity and identity.lower().startswith(in_the_group):
        identity = identity.rsplit("/", 1)[-1]
    request = SetupRequest(
        scope=scope,
        settings=run.settings,
        endpoint_identity=None if identity is None or identity.startswith("/") else identity,
        subjects=of_environments(known_repository, environments, passed),
        prompt_flow=prompt_flow,
        quota=quota,
    )
    return request, known_repository


def _plan(run: Run, session: Session, request: SetupRequest) -> tuple[list[Step], bool]:
    from mlops.setup.plan import plan
    from mlops.setup.survey import read_current_state

    with run.console.step("Look at what is there") as progress:
        current = read_current_state(session, request)
        steps = plan(request, current)
        counts = {state: sum(step.state == state for step in steps) for state in shown_as.MARKS}
        progress.note = ", ".join(f"{count} {shown_as.WORDS[state]}" for state, count in counts.items() if count)
    return steps, current.group is not None


def _refuse_or_ask(
    run: Run,
    session: Session,
    scope: AzureScope,
    caller: Caller,
    steps: Sequence[Step],
    document: dict[str, Any],
    *,
    group_exists: bool,
    dry_run: bool,
    yes: bool,
) -> None:
    """Show the plan; end where it cannot or must not be carried out.

    Raises:
        PreconditionError: something is in the way, or the login may not do it.
        UsageError: there is nobody to ask.
    """
    from mlops.core.errors import MlopsError, PreconditionError
    from mlops.setup import rights
    from mlops.setup.plan import nothing_to_do, wrong

    refusal: MlopsError | None = None
    if wrong(steps):
        first, *others = wrong(steps)
        refusal = PreconditionError(
            f"the {first.title} is in the way: {first.note}",
            details=[f"{step.title}: {step.note}" for step in others],
            hint="nothing was made; choose another name or value in mlops.yaml or the environment, or put it right",
        )
    else:
        try:
            rights.check(session, caller, scope, steps, group_exists=group_exists)
        except PreconditionError as error:
            refusal = error
    if dry_run:
        summary = f"### Setup (dry run)\n\n{shown_as.markdown(steps)}"
        run.console.result(document, shown_as.table(steps), summary=summary)
        if refusal is not None:
            dataclasses.replace(run.console, as_json=False).failure(refusal)  # stdout has its document already
            raise click.exceptions.Exit(refusal.exit_code)
        return
    run.console.err.print(shown_as.table(steps))
    if refusal is not None:
        raise refusal
    if not nothing_to_do(steps):
        count = sum(step.to_do for step in steps)
        _confirm(f"Make or change {count} things?", yes=yes)


def _confirm(question: str, *, yes: bool) -> None:
    from mlops.core.errors import UsageError

    if yes:
        return
    if not sys.stdin.isatty():
        raise UsageError("not running interactively; nothing was made", hint="--yes skips the confirmation")
    if not click.confirm(question, err=True):
        raise click.Abort


def _make(
    run: Run,
    session: Session,
    request: SetupRequest,
    steps: Sequence[Step],
    document: dict[str, Any],
    repository: str | None,
    *,
    github: bool,
) -> None:
    from mlops.azure import identities
    from mlops.core.errors import MlopsError
    from mlops.setup import apply, github_variables
    from mlops.setup.plan import nothing_to_do

    done = apply.apply(session, request, steps)
    error = apply.failure(done)
    notes = [f"{step.title}: {step.note}" for step in steps if step.state == "open"] + done.notes
    environments = [subject.environment for subject in request.subjects]
    lines: list[str] = []
    changed: list[str] = []
    values: dict[str, str] = {}
    identity = request.github_identity and identities.get(session, request.github_identity, request.scope.group)
    if identity:
        values = github_variables.variables(request.scope, identity.client_id)
        lines = github_variables.commands(repository, environments, values)
        if github:
            try:
                changed = _tell_github(run, repository, environments, values)
                lines = []
            except MlopsError as refusal:
                error = error or refusal
    summary = (
        "nothing to do: all of it is there"
        if nothing_to_do(steps) and not changed
        else f"made or changed: {len(done.made)}"
    )
    data = {
        **document,
        "made": done.made,
        "for_you": notes,
        "variables": values,
        "told_github": changed,
        "commands": lines,
    }
    run.console.result(
        data, shown_as.closing(summary, notes, lines), summary=f"### Setup\n\n{summary}\n\n{shown_as.markdown(steps)}"
    )
    if error is not None:
        dataclasses.replace(run.console, as_json=False).failure(error)
        raise click.exceptions.Exit(error.exit_code)


def _tell_github(run: Run, repository: str | None, environments: Sequence[str], values: dict[str, str]) -> list[str]:
    from mlops.core.errors import PreconditionError
    from mlops.setup import github_variables

    if repository is None:
        hint = "pass --repository OWNER/NAME, or run the lines above by hand"
        raise PreconditionError("this checkout was not cloned from GitHub: no repository is known", hint=hint)
    return github_variables.hand_over(run.console, repository, environments, values)


def _delete(run: Run, session: Session, scope: AzureScope, *, dry_run: bool, yes: bool) -> None:
    from mlops.setup import removal

    with run.console.step("Look at what setup has made"):
        planned = removal.plan_removal(session, scope)
    going = removal.sentences(planned)
    document = {"place": scope, "dry_run": dry_run, "delete": going, "lost": planned.lost, "left": planned.remaining}
    text = shown_as.listed([("goes:", going), ("lost with it:", planned.lost), ("stays:", planned.remaining)])
    if not going or dry_run:
        run.console.result(document, text or f"there is nothing of setup's in the group {scope.group}")
        return
    run.console.err.print(text)
    if not yes:
        _type_the_name(scope.group)
    group_gone = removal.remove(session, planned)
    summary = f"deleted: {len(going)}"
    if any(line.startswith("key vault ") for line in going):
        summary += "\nthe key vault keeps its name and its secrets for 90 days; the next setup recovers it"
    run.console.result({**document, "group_deleted": group_gone}, summary, summary=f"### Setup, deleted\n\n{text}")


def _type_the_name(group: str) -> None:
    from mlops.core.errors import UsageError

    if not sys.stdin.isatty():
        raise UsageError("not running interactively; nothing was deleted", hint="--yes skips the confirmation")
    typed = click.prompt(f"This cannot be undone. Type the group's name ({group}) to go on", err=True)
    if typed.strip() != group:
        raise UsageError(f"'{typed}' is not '{group}': nothing was deleted")
