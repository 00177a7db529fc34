"""A local workspace of the test run's own: one daemon per xdist worker, stopped at the end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.checkout import ROOT
from tests.support.waiting import HANG_S

SHORT = {
    "MLOPS_LOCAL_RETRY_AFTER_S": "0.05",
    "MLOPS_LOCAL_ENDPOINT_S": "0.05",
    "MLOPS_LOCAL_DEPLOYMENT_S": "0.05",
    "MLOPS_LOCAL_COMPUTE_S": "0.05",
    "MLOPS_LOCAL_DELETE_S": "0.05",
    "AZUREML_RUN_POLLING_INTERVAL_MIN": "1",
    "AZUREML_RUN_POLLING_INTERVAL_MAX": "1",
}


@dataclass
class Local:
    """One daemon under a home of its own; ``base`` is the environment that its commands run in."""

    home: Path
    base: dict[str, str]

    @property
    def state(self) -> Path:
        return self.home / "local"

    def daemon(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """``python -m mlops.local.daemon …``."""
        command = [sys.executable, "-m", "mlops.local.daemon", *arguments]
        return subprocess.run(command, cwd=ROOT, env=self.base, capture_output=True, text=True, timeout=HANG_S)

    def cli(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """``python -m mlops local …``."""
        command = [sys.executable, "-m", "mlops", "local", *arguments]
        done = subprocess.run(command, cwd=ROOT, env=self.base, capture_output=True, text=True, timeout=HANG_S)
        if check and done.returncode:
            raise AssertionError(f"{arguments} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}")
        return done

    def start(self) -> dict[str, str | None]:
        """Start the daemon unless it runs; the variables for its clients, None for those to take away."""
        done = self.daemon("ensure")
        assert done.returncode == 0, done.stderr
        values: dict[str, str | None] = json.loads(done.stdout)["env"]
        return values

    @property
    def env(self) -> dict[str, str]:
        """The whole environment of a client program."""
        environment = dict(self.base)
        for name, value in self.start().items():
            if value is None:
                environment.pop(name, None)
            else:
                environment[name] = value
        return environment

    def record(self) -> dict[str, Any]:
        """What the running daemon wrote of itself."""
        content: dict[str, Any] = json.loads((self.state / "daemon.json").read_text())
        return content

    def stop(self) -> None:
        code = "from mlops.local.daemon import client; client.stop()"
        subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=self.base, check=True, timeout=HANG_S)

    def run_python(self, code: str, *, extra: dict[str, str] | None = None) -> str:
        """Run a program under the workspace's environment; its stdout. Warnings do not fail it: it is a stranger."""
        command = [sys.executable, "-c", textwrap.dedent(code)]
        env = {**self.env, **(extra or {})}
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=HANG_S)
        if done.returncode:
            raise AssertionError(f"the program ended with {done.returncode}:\n{done.stdout}\n{done.stderr}")
        return done.stdout


def make_local(home: Path, cache: Path, **extra: str) -> Local:
    """A workspace under ``home``, not started yet."""
    dropped = ("PYTHONDONTWRITEBYTECODE", "PYTEST_CURRENT_TEST")
    base = {name: value for name, value in os.environ.items() if name not in dropped}
    base |= {"MLOPS_HOME": str(home), "MLOPS_CACHE": str(cache), **SHORT, **extra}
    return Local(home=home, base=base)


@pytest.fixture(scope="session")
def shared_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One cache for all workers of a test run; MLOPS_CACHE keeps it between runs."""
    if os.environ.get("MLOPS_CACHE"):
        return Path(os.environ["MLOPS_CACHE"])
    folder = tmp_path_factory.getbasetemp()
    if os.environ.get("PYTEST_XDIST_WORKER"):
        folder = folder.parent
    cache = folder / "cache"
    cache.mkdir(exist_ok=True)
    return cache


@pytest.fixture(scope="session")
def local(tmp_path_factory: pytest.TempPathFactory, shared_cache: Path) -> Iterator[Local]:
    """The worker's daemon, running."""
    daemon = make_local(tmp_path_factory.mktemp("local"), shared_cache)
    daemon.start()
    yield daemon
    daemon.stop()


@pytest.fixture
def own_local(tmp_path: Path, shared_cache: Path) -> Iterator[Local]:
    """A daemon of the test's own, for tests that kill, stop or reset it; started by ``.start()`` or ``.env``."""
    daemon = make_local(tmp_path / "home", shared_cache)
    yield daemon
    daemon.stop()


@pytest.fixture
def bare_local(tmp_path: Path, shared_cache: Path) -> Iterator[Local]:
    """The same with identity, blobs and an empty control plane only: it is up in no time."""
    daemon = make_local(tmp_path / "home", shared_cache, MLOPS_LOCAL_PARTS="none")
    yield daemon
    daemon.stop()


@pytest.fixture
def local_env(local: Local, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The workspace's environment put into this very process."""
    environment = local.env
    for name in set(os.environ) - set(environment):
        if name != "PYTEST_CURRENT_TEST":
            monkeypatch.delenv(name)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return environment


@pytest.fixture
def ml_client(local_env: dict[str, str]) -> Iterator[Any]:
    """A real MLClient on the workspace, in this process."""
    from azure.ai.ml import MLClient
    from azure.identity import DefaultAzureCredential

    with DefaultAzureCredential() as credential:
        yield MLClient(
            credential,
            local_env["AZURE_SUBSCRIPTION_ID"],
            local_env["AZURE_RESOURCE_GROUP"],
            local_env["AZUREML_WORKSPACE_NAME"],
        )


@pytest.fixture
def registry_client(local_env: dict[str, str]) -> Iterator[Any]:
    """A real MLClient on the registry, in this process."""
    from azure.ai.ml import MLClient
    from azure.identity import DefaultAzureCredential

    with DefaultAzureCredential() as credential:
        yield MLClient(credential, registry_name="azureml")
