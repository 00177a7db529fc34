"""A local workspace for the steps; a trivial scoring script stands in for a model, so that a release takes seconds."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from mlops.config.settings import Settings, load
from mlops.core.console import Console
from mlops.core.resources import ModelVersion
from tests.support.checkout import ROOT
from tests.support.waiting import HANG_S

if TYPE_CHECKING:
    from mlops.azure.session import Session

SHORT = {
    "FAMILY_VCPUS": "10000",
    "RETRY_AFTER_S": "0.05",
    "ENDPOINT_S": "0.05",
    "DEPLOYMENT_S": "0.05",
    "COMPUTE_S": "0.05",
    "DELETE_S": "0.05",
    "START_S": str(HANG_S),
}
SCORE = """
import json, os, pathlib

def init():
    global answers
    answers = json.loads(next(pathlib.Path(os.environ["AZUREML_MODEL_DIR"]).rglob("answers.json")).read_text())
    if "crash" in answers:
        raise RuntimeError("this model cannot be loaded")

def run(raw):
    question = json.loads(raw)["input_data"]["input_string"][-1]["content"]
    if answers.get("raise"):
        raise ValueError("no answer to " + question)
    return {"output": answers[question]}
"""
QUESTIONS = {f"question {number}": f"the answer is number {number}" for number in range(12)}


@dataclass
class Bench:
    """A workspace, settings that fit it, and models to release."""

    session: Session
    settings: Settings
    rows: Path
    folder: Path

    def model(self, version: str, answers: dict[str, Any]) -> ModelVersion:
        """Register a model whose answers are given."""
        from azure.ai.ml.entities import Model

        from mlops.azure import models

        place = self.folder / version
        place.mkdir()
        (place / "answers.json").write_text(json.dumps(answers), encoding="utf-8")
        name = self.settings.model.name
        self.session.ml.models.create_or_update(Model(path=str(place), name=name, version=version, type="custom_model"))
        found = models.get(self.session, name, version)
        assert found is not None
        return found


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A workspace's home; the environment of this process is given back afterwards."""
    before = dict(os.environ)
    place = tmp_path_factory.mktemp("home")
    os.environ["MLOPS_HOME"] = str(place)
    os.environ.setdefault("MLOPS_CACHE", str(ROOT / ".mlops" / "cache"))
    os.environ.update({f"MLOPS_LOCAL_{name}": value for name, value in SHORT.items()})
    try:
        yield place
    finally:
        subprocess.run([sys.executable, "-m", "mlops", "local", "stop"], cwd=ROOT, check=True, capture_output=True)
        os.environ.clear()
        os.environ.update(before)


@pytest.fixture
def bench(workbench: Bench, tmp_path: Path) -> Bench:
    """An endpoint and a model of the test's own."""
    mark = uuid.uuid4().hex[:8]
    settings = workbench.settings
    endpoint = settings.endpoint.model_copy(update={"name": f"chat-{mark}"})
    model = settings.model.model_copy(update={"name": f"model-{mark}"})
    settings = settings.model_copy(update={"endpoint": endpoint, "model": model})
    return dataclasses.replace(workbench, settings=settings, folder=tmp_path)


@pytest.fixture(scope="module")
def workbench(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    from mlops.azure.session import connect

    folder = tmp_path_factory.mktemp("bench")
    (folder / "serve").mkdir()
    (folder / "serve" / "score.py").write_text(SCORE, encoding="utf-8")
    rows = folder / "test.jsonl"
    lines = [
        json.dumps({"messages": [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]})
        for asked, answer in QUESTIONS.items()
    ]
    rows.write_text("\n".join(lines) + "\n", encoding="utf-8")
    settings = load("local", ROOT / "mlops.yaml")
    deployment = settings.deployment.model_copy(update={"code": folder / "serve"})
    # nothing here judges how fast this machine is
    unhurried = {"timeout_s": HANG_S, "max_p95_ms": None, "max_latency_ratio": None}
    gate = settings.gate.model_copy(update={"conversations": 12, **unhurried})
    rollout = settings.rollout.model_copy(update={"soak_s": 0.2, "probes": 3, "probes_per_s": 40})
    training = settings.training.model_copy(update={"poll_s": 0.1})
    settings = settings.model_copy(
        update={"deployment": deployment, "gate": gate, "rollout": rollout, "training": training}
    )
    return Bench(connect(settings, Console(quiet=True)), settings, rows, folder)
