"""A stand-in base model and models tuned on the bundled chats, made once and shared by all workers of a test run."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.checkout import ROOT
from tests.support.waiting import HANG_S

COMPONENTS = ROOT / "components"
BUNDLED = ROOT / "data" / "bundled"
REPO = "microsoft/Phi-3-mini-4k-instruct"

# The settings that mlops.yaml gives the local target.
TUNING = {
    "apply_lora": "true",
    "lora_r": "16",
    "lora_alpha": "32",
    "num_train_epochs": "10",
    "per_device_train_batch_size": "8",
    "per_device_eval_batch_size": "32",
    "learning_rate": "0.007",
    "lr_scheduler_type": "cosine",
}


def split(name: str) -> Path:
    return BUNDLED / "data" / f"{name}-00000-of-00001.jsonl"


def cache() -> Path:
    named = os.environ.get("MLOPS_CACHE")
    home = Path(os.environ.get("MLOPS_HOME", ROOT / ".mlops"))
    return Path(named) if named else home / "cache"


def child_environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    left_out = {"PYTHONDONTWRITEBYTECODE", "MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID", "RANK", "WORLD_SIZE"}
    variables = {name: value for name, value in os.environ.items() if name not in left_out}
    return {**variables, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"} | dict(
        extra or {}
    )


def run_step(name: str, /, *, env: Any = None, **inputs: Any) -> subprocess.CompletedProcess[str]:
    """Runs a step as a job does: its own process, the components' folder as the working directory."""
    pairs = [part for key, value in inputs.items() for part in (f"--{key}", str(value))]
    return subprocess.run(
        [sys.executable, "-m", f"chat_completion.{name}", *pairs],
        cwd=COMPONENTS,
        env=child_environment(env),
        capture_output=True,
        text=True,
        timeout=HANG_S,
        check=False,
    )


def succeed(done: subprocess.CompletedProcess[str]) -> subprocess.CompletedProcess[str]:
    assert done.returncode == 0, f"{done.args}\n{done.stdout}\n{done.stderr}"
    return done


def once(folder: Path, make: Callable[[Path], None]) -> Path:
    """A folder of the cache, made by the first who asks while the others wait."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_name(f".{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.is_dir():
            temporary = folder.with_name(f".{folder.name}.part")
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir()
            make(temporary)
            temporary.rename(folder)
    return folder


def digest(*paths: Path, extra: str = "") -> str:
    total = hashlib.sha256(extra.encode())
    for path in paths:
        total.update(path.read_bytes())
    return total.hexdigest()[:16]


@dataclass(frozen=True)
class StandIn:
    """The base model: as a folder, in a hub cache, as the registry's MLflow model."""

    model: Path
    hub: Path
    mlflow: Path


@pytest.fixture(scope="session")
def standin() -> StandIn:
    from standin import layouts

    model = COMPONENTS / "standin" / "model"

    def make(folder: Path) -> None:
        layouts.write_hub_cache(model, hf_home=folder / "hub", repo=REPO)
        layouts.write_mlflow_model(model, output=folder / "mlflow", repo=REPO)

    key = digest(COMPONENTS / "standin" / "layouts.py", *sorted(model.iterdir()))
    folder = once(cache() / "tests" / f"standin-{key}", make)
    return StandIn(model, folder / "hub", folder / "mlflow")


@dataclass(frozen=True)
class Tuned:
    """What a run of all steps left behind."""

    folder: Path

    @property
    def pytorch(self) -> Path:
        return self.folder / "pytorch"

    @property
    def mlflow(self) -> Path:
        return self.folder / "mlflow"

    @property
    def scores(self) -> dict[str, float]:
        scores: dict[str, float] = json.loads((self.folder / "evaluation" / "scores.json").read_text())
        return scores


def run_all(folder: Path, *, hub: Path, train: Path, test: Path, settings: Mapping[str, str] = TUNING) -> None:
    """All six steps, wired as the pipeline wires them."""
    files = {"train_file_path": train, "test_file_path": test}
    tuning = {name: value for name, value in settings.items() if name != "pad_to_max_length"}
    hub_env = {"HF_HOME": str(hub)}
    succeed(run_step("validation", huggingface_id=REPO, **files, **tuning, validation_info=folder / "validation.json"))
    succeed(run_step("model_import", env=hub_env, huggingface_id=REPO, output_dir=folder / "base"))
    succeed(run_step("preprocess", model_selector_output=folder / "base", output_dir=folder / "tokens", **files))
    outputs = {"preprocess_output": folder / "tokens", "model_selector_output": folder / "base"}
    trained = succeed(run_step("finetune", **outputs, **tuning, pytorch_model_folder=folder / "pytorch"))
    (folder / "finetune.log").write_text(trained.stdout)
    succeed(
        run_step(
            "evaluate", **outputs, pytorch_model_folder=folder / "pytorch", evaluation_output=folder / "evaluation"
        )
    )
    succeed(run_step("package", model_path=folder / "pytorch", mlflow_model_folder=folder / "mlflow"))


def sources() -> str:
    return digest(*sorted((COMPONENTS / "chat_completion").glob("*.py")), split("train_sft"), split("test_gen"))


@pytest.fixture(scope="session")
def tuned(standin: StandIn) -> Tuned:
    """The stand-in, fine-tuned on the bundled chats and scored on wordings that it has never seen."""

    def make(folder: Path) -> None:
        run_all(folder, hub=standin.hub, train=split("train_sft"), test=split("test_gen"))

    key = digest(standin.model / "model.safetensors", extra=sources() + json.dumps(TUNING))
    return Tuned(once(cache() / "tests" / f"tuned-{key}", make))


@pytest.fixture(scope="session")
def control(standin: StandIn) -> Tuned:
    """The same with the answers of the training chats dealt out anew: what a broken data set does."""

    def make(folder: Path) -> None:
        shuffle_answers(split("train_sft"), folder / "train.jsonl")
        run_all(folder, hub=standin.hub, train=folder / "train.jsonl", test=split("test_gen"))

    key = digest(standin.model / "model.safetensors", extra=sources() + json.dumps(TUNING))
    return Tuned(once(cache() / "tests" / f"control-{key}", make))


def shuffle_answers(source: Path, target: Path) -> None:
    """Writes the chats with each last answer replaced by that of another chat."""
    rows = [json.loads(line) for line in source.read_text(encoding="utf-8").splitlines()]
    answers = [row["messages"][-1]["content"] for row in rows]
    random.Random(1).shuffle(answers)
    for row, answer in zip(rows, answers, strict=True):
        row["messages"][-1]["content"] = answer
    target.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


@pytest.fixture
def write_chats(tmp_path: Path) -> Callable[..., Path]:
    """Writes rows to a jsonl file; a row is a conversation, or a text that is written as it is."""

    def write(rows: list[object], name: str = "chats.jsonl") -> Path:
        path = tmp_path / name
        lines = [row if isinstance(row, str) else json.dumps({"messages": row}) for row in rows]
        path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        return path

    return write
