"""Step 6: packs the tuned model as an MLflow model, with one copy of its weights.

It is a pyfunc whose code travels with it (models from code), so that it loads wherever MLflow does.
"""

import os
import shutil
import tempfile
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from chat_completion.common.arguments import parse
from chat_completion.common.model_folder import copy_model, copy_settings, find_model, read_json
from chat_completion.common.refusal import Refusal, run_step
from chat_completion.trainer.model import ADAPTER, TRAINING, merge

REQUIREMENTS = ("mlflow", "torch", "transformers", "safetensors", "jinja2", "numpy", "pandas")
"""What the packed model needs to answer; given by name, since MLflow's own search would add more."""

CODE = Path(__file__).with_name("chat_model.py")


@dataclass(frozen=True)
class Inputs:
    """The trained model's folder, and where the MLflow model goes."""

    model_path: Path
    mlflow_model_folder: Path


def pinned_requirements() -> list[str]:
    """The packages of this environment that the model runs on, each with its version."""
    pins = []
    for name in REQUIREMENTS:
        try:
            # A build's suffix ('+cpu') names no release that another machine could install.
            pins.append(f"{name}=={version(name).partition('+')[0]}")
        except PackageNotFoundError as error:
            raise Refusal(f"the environment has no package '{name}', which the packed model needs") from error
    return pins


def merge_adapter(folder: Path, work: Path) -> Path:
    """The trained model as one set of weights: its adapter, where it has one, is merged into a copy."""
    if not (folder / ADAPTER).is_dir():
        return folder
    copy_settings(folder, work)
    merge(folder, folder / ADAPTER).save_pretrained(work)
    return work


def make_portable(path: Path) -> None:
    """Takes this machine's folders out of an MLmodel file; MLflow looks beside the file for what they name."""
    import yaml

    model = yaml.safe_load(path.read_text(encoding="utf-8"))
    flavor = model["flavors"]["python_function"]
    flavor["model_code_path"] = CODE.name
    for artifact in flavor["artifacts"].values():
        artifact["uri"] = artifact["path"]
    path.write_text(yaml.safe_dump(model), encoding="utf-8")


def package(inputs: Inputs) -> None:
    """Writes the MLflow model."""
    # One line per step is enough of a log.
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    import mlflow.pyfunc

    weights, tokenizer = find_model(inputs.model_path)
    if weights != tokenizer:
        raise Refusal(f"'{inputs.model_path}' is not what the finetune step writes: its tokenizer lies elsewhere")
    training = read_json(weights / TRAINING) if (weights / TRAINING).is_file() else {}
    with tempfile.TemporaryDirectory() as scratch:
        staged = Path(scratch) / "model"
        whole = merge_adapter(weights, Path(scratch) / "merged")
        copy_model(whole, whole, staged)
        (staged / TRAINING).unlink(missing_ok=True)
        target = Path(scratch) / "mlflow"
        mlflow.pyfunc.save_model(
            path=str(target),
            python_model=str(CODE),
            artifacts={"model": str(staged)},
            pip_requirements=pinned_requirements(),
            metadata={"task": "chat-completion", "base_model": training.get("base_model", {}).get("name", "")},
        )
        make_portable(target / "MLmodel")
        # The output is a mounted folder that exists already, and MLflow wants to make its folder itself.
        shutil.copytree(target, inputs.mlflow_model_folder, dirs_exist_ok=True)


def run(argv: list[str]) -> None:
    """Packs the model."""
    package(parse(Inputs, argv, description="Pack the tuned model as an MLflow model."))


if __name__ == "__main__":
    raise SystemExit(run_step("package", run))
