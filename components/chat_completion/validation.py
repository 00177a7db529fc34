"""Step 1: refuses what the later steps cannot do, before a machine with a GPU is started."""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from chat_completion.common.arguments import parse
from chat_completion.common.limits import PipelineInputs, check, refusals
from chat_completion.common.refusal import run_step


@dataclass(frozen=True)
class Output:
    """Where the step writes what it checked."""

    validation_info: Path


@dataclass(frozen=True)
class Inputs(PipelineInputs, Output):
    """All that the pipeline was given."""


def missing_files(inputs: PipelineInputs) -> Iterator[str]:
    """Inputs that name a file or folder which is not there, or an empty file."""
    for name in ("train_file_path", "validation_file_path", "test_file_path", "deepspeed"):
        path = getattr(inputs, name)
        if path is None:
            continue
        if not path.is_file():
            yield f"{name} '{path}' is no file"
        elif not path.stat().st_size:
            yield f"{name} '{path}' is empty"
    for name in ("mlflow_model_path", "pytorch_model_path"):
        path = getattr(inputs, name)
        if path is not None and not path.is_dir():
            yield f"{name} '{path}' is no folder"


def run(argv: list[str]) -> None:
    """Validates the pipeline's inputs."""
    inputs = parse(Inputs, argv, description="Check the inputs of the pipeline.")
    check([*refusals(inputs), *missing_files(inputs)])
    checked = {name: str(value) if isinstance(value, Path) else value for name, value in asdict(inputs).items()}
    inputs.validation_info.parent.mkdir(parents=True, exist_ok=True)
    inputs.validation_info.write_text(json.dumps(checked, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    print(f"{len(checked)} inputs checked")


if __name__ == "__main__":
    raise SystemExit(run_step("validation", run))
