"""Azure for the workflows: a local workspace of the test's own, its settings, and what a person would look at."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from tests.support.checkout import ROOT
from tests.workflows.runner.world import World, subject

if TYPE_CHECKING:
    from mlops.azure.session import Session
    from mlops.config.settings import Settings

SHORT = {"RETRY_AFTER_S": "0.05", "ENDPOINT_S": "0.05", "DEPLOYMENT_S": "0.05", "COMPUTE_S": "0.05", "DELETE_S": "0.05"}
NAMES = (
    *("AZURE_CLIENT_ID", "AZURE_TENANT_ID", "AZURE_SUBSCRIPTION_ID", "AZURE_RESOURCE_GROUP"),
    *("AZUREML_WORKSPACE_NAME", "AZURE_REGION"),
)
"""The six variables; there is no secret."""
ENVIRONMENTS = ("staging", "production")
TRIVIAL = """
import json, os, pathlib

def init():
    global answers
    answers = json.loads(next(pathlib.Path(os.environ["AZUREML_MODEL_DIR"]).rglob("answers.json")).read_text())

def run(raw):
    question = json.loads(raw)["input_data"]["input_string"][-1]["content"]
    return {"output": answers.get(question, "no idea")}
"""
"""A scoring script for models that are a table of answers: a slot of it stands in a second."""


@dataclass
class Cloud:
    """One workspace, started by the first call."""

    home: Path
    _session: Session | None = None
    _variables: dict[str, str] = field(default_factory=dict)

    def open(self) -> None:
        """Lead this process to the workspace."""
        os.environ["MLOPS_HOME"] = str(self.home)
        os.environ.setdefault("MLOPS_CACHE", str(ROOT / ".mlops" / "cache"))
        os.environ.update({f"MLOPS_LOCAL_{name}": value for name, value in SHORT.items()})

    def close(self) -> None:
        """Stop the workspace."""
        subprocess.run([sys.executable, "-m", "mlops", "local", "stop"], cwd=ROOT, check=True, capture_output=True)

    def environ(self) -> dict[str, str]:
        """What leads a program here, credentials included."""
        from mlops.local.daemon import client

        return {name: value for name, value in client.env().items() if value is not None}

    def way(self) -> dict[str, str]:
        """The same without any credential or name: all that a job's machine gets."""
        return {name: value for name, value in self.environ().items() if not name.startswith("AZURE")}

    def variables(self) -> dict[str | None, dict[str, str]]:
        """The six variables of each GitHub environment, as setup prints them."""
        variables = self._variables
        assert sorted(variables) == sorted(NAMES)
        return {name: dict(variables) for name in ENVIRONMENTS}

    @staticmethod
    def identity(whose: str, claims: Mapping[str, Any]) -> Mapping[str, str]:
        """GitHub's token service, as the workspace plays it."""
        from tests.support.github_job import github_job

        return github_job(whose, **claims)

    def trust(self) -> None:
        """What somebody with the right to assign roles does once: the identities of GitHub's jobs and of endpoints.

        The two environments are trusted; no branch and no pull request is.
        """
        from mlops.local.daemon import client
        from tests.workflows.runner.events import Event

        client.start()
        command = [sys.executable, "-m", "mlops", "setup", "--target", "staging", "--yes", "--json"]
        for name in ENVIRONMENTS:
            command += ["--subject", f"{name}={subject(Event('push', ''), name)}"]
        environ = {**os.environ, **self.environ()}
        done = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        self._variables = json.loads(done.stdout)["variables"]

    def mlops(self, world: World, *arguments: str, code: int = 0) -> Any:
        """Ask as a person at a desk would, with credentials of one's own: the result as JSON."""
        environ = {**world.environ, **self.environ(), "MLOPS_HOME": str(self.home / "desk")}
        command = [sys.executable, "-m", "mlops", *arguments, "--target", "staging", "--json"]
        done = subprocess.run(command, cwd=world.repository, env=environ, capture_output=True, text=True, check=False)
        assert done.returncode == code, f"{arguments}: {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
        return json.loads(done.stdout)

    def traffic(self, world: World) -> dict[str, int]:
        """The shares of the lasting endpoint's slots that have any; nothing where it is not there yet."""
        with self.desk(world) as (session, settings):
            name = settings.endpoint.name
            every = {each.name: each for each in session.ml.online_endpoints.list()}
            return {slot: share for slot, share in (every[name].traffic if name in every else {}).items() if share}

    def endpoints(self, world: World) -> list[str]:
        """The names of all there are."""
        with self.desk(world) as (session, _):
            return sorted(each.name for each in session.ml.online_endpoints.list())

    @contextmanager
    def desk(self, world: World) -> Iterator[tuple[Session, Settings]]:
        """A session of a person with credentials of one's own."""
        from mlops.azure.session import connect
        from mlops.config.settings import load
        from mlops.core.console import Console

        before = dict(os.environ)
        os.environ.update(self.environ())
        try:
            settings = load("staging", world.repository / "mlops.yaml")
            self._session = self._session or connect(settings, Console(quiet=True))
            yield self._session, settings
        finally:
            os.environ.clear()
            os.environ.update(before)

    def tags(self, world: World, version: str) -> dict[str, str]:
        """The tags of a model version."""
        with self.desk(world) as (session, settings):
            return dict(session.ml.models.get(settings.model.name, version).tags)

    def register(self, world: World, version: str, folder: Path) -> None:
        """Register a model that no job has made."""
        with self.desk(world) as (session, settings):
            from azure.ai.ml.entities import Model

            session.ml.models.create_or_update(
                Model(path=str(folder), name=settings.model.name, version=version, type="custom_model")
            )


def settings(**changes: Any) -> str:
    """mlops.yaml with every target small and quick: what `local` says, one epoch on a quarter of the chats.

    Args:
        changes: sections of the targets, over that.
    """
    document = yaml.safe_load((ROOT / "mlops.yaml").read_text(encoding="utf-8"))
    small = document["targets"]["local"]
    quick = {
        "gate": {"max_p95_ms": None, "max_latency_ratio": None},  # none of the stories is about a busy machine
        "rollout": {"steps": [50, 100], "soak_s": 0.3, "probes": 3, "probes_per_s": 40, "lease_s": 15},
        "data": {"percent": 25},
        "training": {"poll_s": 0.2, "parameters": {"num_train_epochs": 1}},
    }
    for name in ("local", *ENVIRONMENTS):
        document["targets"][name] = merged(merged(merged({}, small), quick), changes)
    return yaml.safe_dump(document, sort_keys=False)


def merged(base: dict[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Settings with some changed, section by section."""
    settings = dict(base)
    for name, value in over.items():
        inner = settings.get(name)
        settings[name] = merged(inner, value) if isinstance(inner, dict) and isinstance(value, dict) else value
    return settings


NO_THRESHOLDS = {
    "gate": {"quality": {"exact_match": {"min": None}, "rouge_l": {"min": None}}},
    "training": {"evaluation": {"exact_match": {"min": None}}},
}
"""For models that were trained for one epoch."""
