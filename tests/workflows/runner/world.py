"""What lies around a workflow: the repository, its variables and secrets, who gives out tokens, the machine."""

from __future__ import annotations

import itertools
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.workflows.runner.bridge import Bridge
from tests.workflows.runner.events import Event

OWNER, NAME = "acme", "chat"
OWNER_ID, NAME_ID = 1001, 2002
Identity = Callable[[str, Mapping[str, Any]], Mapping[str, str]]
"""From a job's subject and claims to its two ACTIONS_ID_TOKEN_REQUEST_… variables."""


@dataclass
class World:
    """One repository on GitHub, and the machines that run its jobs.

    Attributes:
        repository: a git repository; workflows are read from, and checked out at, an event's commit.
        folder: where runs keep their files.
        environ: what a machine has in its environment before GitHub adds anything.
        variables: by environment; those under None are the repository's.
        identity: GitHub's token service; None where no job may ask for a token.
    """

    bridge: Bridge
    repository: Path
    folder: Path
    environ: Mapping[str, str]
    variables: Mapping[str | None, Mapping[str, str]] = field(default_factory=dict)
    secrets: Mapping[str, str] = field(default_factory=dict)
    identity: Identity | None = None
    actor: str = "ada"
    _numbers: itertools.count[int] = field(default_factory=lambda: itertools.count(1))

    def next_run(self) -> int:
        """A number for a run."""
        return next(self._numbers)

    def variables_of(self, environment: str | None, event: Event) -> dict[str, str]:
        """The repository's variables and over them the environment's; a fork's pull request gets none."""
        if event.fork:
            return {}
        return {**self.variables.get(None, {}), **(self.variables.get(environment, {}) if environment else {})}

    def secrets_of(self, event: Event) -> dict[str, str]:
        """A fork's pull request gets none."""
        return {} if event.fork else dict(self.secrets)

    def files_at(self, sha: str) -> Path:
        """The repository's files at a commit, for reading workflows and actions."""
        folder = self.folder / "files" / sha
        if not folder.exists():
            folder.mkdir(parents=True)
            archive = subprocess.run(
                ["git", "archive", sha, ".github"], cwd=self.repository, capture_output=True, check=True
            )
            subprocess.run(["tar", "-x"], cwd=folder, input=archive.stdout, check=True)
        return folder


def subject(event: Event, environment: str | None) -> str:
    """The subject claim of a job's token, with ids as repositories made since mid 2026 have them."""
    repository = f"repo:{OWNER}@{OWNER_ID}/{NAME}@{NAME_ID}"
    if environment:
        return f"{repository}:environment:{environment}"
    return f"{repository}:pull_request" if event.name == "pull_request" else f"{repository}:ref:{event.ref}"


def github_context(world: World, event: Event, *, number: int, workflow: str, path: str) -> dict[str, Any]:
    """The `github` context of a run, without what belongs to a job."""
    pull = event.name == "pull_request"
    ref = f"refs/pull/{event.number}/merge" if pull else event.ref
    return {
        "actor": world.actor,
        "actor_id": "7",
        "api_url": "https://api.github.com",
        "base_ref": event.base if pull else "",
        "event": event.payload(),
        "event_name": event.name,
        "graphql_url": "https://api.github.com/graphql",
        "head_ref": event.head if pull else "",
        "ref": ref,
        "ref_name": f"{event.number}/merge" if pull else event.branch,
        "ref_protected": event.branch == "main" and not pull,
        "ref_type": "branch",
        "repository": f"{OWNER}/{NAME}",
        "repository_id": str(NAME_ID),
        "repository_owner": OWNER,
        "repository_owner_id": str(OWNER_ID),
        "retention_days": "90",
        "run_attempt": "1",
        "run_id": str(9000 + number),
        "run_number": str(number),
        "secret_source": "None" if event.fork else "Actions",
        "server_url": "https://github.com",
        "sha": event.sha,
        "triggering_actor": world.actor,
        "workflow": workflow,
        "workflow_ref": f"{OWNER}/{NAME}/{path}@{ref}",
        "workflow_sha": event.sha,
    }
