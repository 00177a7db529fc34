"""Whose jobs may log in: the subject of a federated credential, asked of GitHub and never put together here."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass

from mlops.core.errors import MlopsError, UsageError
from mlops.setup import github_cli

MAX_LENGTH = 600
"""Of a subject, as Entra limits it."""
MAX_NAME = 120
"""Of a federated credential's name."""


@dataclass(frozen=True, kw_only=True)
class Subject:
    """The subject of an environment's jobs; an empty one could not be told, and why."""

    environment: str
    value: str = ""
    why_not: str = ""
    hint: str = ""

    @property
    def credential(self) -> str:
        """Name of the federated credential: 3 to 120 letters, digits, hyphens and underscores; one per environment."""
        name = f"github-{re.sub(r'[^A-Za-z0-9_-]+', '-', self.environment)}"
        if name == f"github-{self.environment}" and len(name) <= MAX_NAME:
            return name
        mark = hashlib.sha256(self.environment.encode()).hexdigest()[:8]
        return f"{name[: MAX_NAME - len(mark) - 1]}-{mark}"


def given(pairs: Iterable[str]) -> dict[str, str]:
    """``ENVIRONMENT=SUBJECT``, as people pass them.

    Raises:
        UsageError: a pair is none, or its subject is one that must not log in.
    """
    subjects = {}
    for pair in pairs:
        environment, _, subject = pair.partition("=")
        if not environment or not subject:
            raise UsageError(f"--subject '{pair}' is not of the form ENVIRONMENT=SUBJECT")
        refuse(subject, environment)
        subjects[environment] = subject
    return subjects


def refuse(subject: str, environment: str) -> None:
    """Refuse a subject that jobs without this environment share.

    A pull request's subject is the same for every pull request, from forks too: whoever opens one would log in.

    Raises:
        UsageError: it names a pull request, no environment, another environment, or a pattern.
    """
    claim = f"{github_cli.ENVIRONMENT}{environment.replace(':', '%3A')}"
    if ":pull_request" in subject:
        what = "it stands for every pull request, whoever opened it"
    elif github_cli.ENVIRONMENT not in f":{subject}":
        what = "it names no environment, so that any job of the branch would match"
    elif f"{claim}:" not in f":{subject}:":
        what = f"it names another environment than '{environment}'"
    elif "*" in subject or len(subject) > MAX_LENGTH or re.search(r"\s", subject):
        what = "it is no single subject of a statement of GitHub's"
    else:
        return
    raise UsageError(
        f"the subject '{subject}' is refused: {what}",
        hint=f"give the workflow's job 'environment: {environment}' and pass the subject that it then has",
    )


def of_environments(repository: str | None, environments: Iterable[str], passed: dict[str, str]) -> list[Subject]:
    """The subject of each environment: the one that was passed, else what GitHub says."""
    return [_of(repository, environment, passed.get(environment)) for environment in dict.fromkeys(environments)]


def _of(repository: str | None, environment: str, passed: str | None) -> Subject:
    if passed:
        return Subject(environment=environment, value=passed)
    how = f"pass --subject {environment}=SUBJECT, as a login that fails in a job shows it"
    if repository is None:
        return Subject(environment=environment, why_not="this is no clone of a GitHub repository", hint=how)
    try:
        value = github_cli.subject(repository, environment)
        refuse(value, environment)
    except MlopsError as error:
        hint = error.hint if error.hint and "--subject" in error.hint else "; or ".join(filter(None, (error.hint, how)))
        return Subject(environment=environment, why_not=error.message, hint=hint)
    return Subject(environment=environment, value=value)
