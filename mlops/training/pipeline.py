"""The pipeline that trains: where it is read from, what it is given, and whether it takes that.

`mlops train` refuses for what does not fit, and `mlops doctor` finds it, by these functions.
"""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlops.azure import components, jobs
from mlops.core.errors import UsageError
from mlops.core.resources import ModelVersion, PipelineInput

if TYPE_CHECKING:
    from mlops.azure.session import Session
    from mlops.config.settings import Settings

COMPONENT = "chat_completion_pipeline"
REGISTRY = "azureml"
STAY = ("chat_flow",)
"""Folders of components/ that no step of the pipeline sees: a change there must not buy a training."""


def component_source(settings: Settings) -> components.ComponentSource:
    """Where the pipeline is read from."""
    if settings.training.pipeline == "components":
        return settings.root / "components" / f"{COMPONENT}.yml"
    return (REGISTRY, COMPONENT, settings.training.component_version)


def check(session: Session, settings: Settings, given: Mapping[str, Any]) -> None:
    """Refuse a pipeline that is not there, or that does not take what it will be given.

    Raises:
        PreconditionError: the registry has no such component.
        UsageError: an input that it has not, or a value that it does not take.
    """
    for problem in problems(takes(session, settings), given):
        raise problem


def takes(session: Session, settings: Settings) -> dict[str, PipelineInput]:
    """The pipeline's inputs, as the component itself says.

    Raises:
        PreconditionError: the registry has no such component.
    """
    return components.inputs(components.read(session, component_source(settings)))


def problems(taken: Mapping[str, PipelineInput], given: Mapping[str, Any]) -> Iterator[UsageError]:
    """What does not fit of what the pipeline is given to what it takes."""
    for name, value in given.items():
        if name not in taken:
            close = difflib.get_close_matches(name, taken, n=1)
            hint = f"did you mean '{close[0]}'?" if close else "see training.parameters in mlops.yaml"
            yield UsageError(f"the pipeline '{COMPONENT}' has no parameter '{name}'", hint=hint)
        elif isinstance(value, (bool, int, float, str)):
            misfit = _unfit(taken[name], str(value).lower() if isinstance(value, bool) else str(value))
            if misfit:
                yield UsageError(f"the parameter '{name}' is '{value}'", hint=f"the pipeline takes {misfit}")
    for name, entry in taken.items():
        if entry.required and name not in given:
            hint = "set it under training.parameters in mlops.yaml"
            yield UsageError(f"the pipeline '{COMPONENT}' needs the parameter '{name}'", hint=hint)


def _unfit(entry: PipelineInput, written: str) -> str:
    """What an input takes, where that is not what was written."""
    if entry.values:
        return "" if written in entry.values else ", ".join(entry.values)
    if entry.type not in ("integer", "number"):
        return ""
    try:
        number = float(written)
    except ValueError:
        return "a number"
    if entry.type == "integer" and not number.is_integer():
        return "a whole number"
    if entry.least is not None and number < entry.least:
        return f"{entry.least:g} and more"
    if entry.most is not None and number > entry.most:
        return f"{entry.most:g} and less"
    return ""


def label(settings: Settings) -> str:
    """The pipeline as a plan names it: the registry's version, or the content of our own."""
    if settings.training.pipeline == "components":
        return f"components@{folder_hash(settings.root / 'components', without=STAY)[:12]}"
    return f"{COMPONENT}:{settings.training.component_version}"


def inputs(
    settings: Settings,
    values: Mapping[str, Any],
    *,
    base: ModelVersion | None,
    cluster: str,
    gpus: int,
    train: Path,
    test: Path,
) -> dict[str, Any]:
    """All that the pipeline is given, by name.

    Args:
        settings: the target's.
        values: the parameters, as training found them.
        base: the registry's model; None where the pipeline fetches it from the hub.
        cluster: the name of the one that trains.
        gpus: of each of its nodes.
        train: the prepared split to train on.
        test: the prepared split to evaluate on.
    """
    given: dict[str, Any] = {name: literal(value) for name, value in values.items()}
    clusters = ("model_import", "preprocess", "finetune", "model_evaluation")
    given.update({f"compute_{purpose}": cluster for purpose in clusters})
    given["number_of_gpu_to_use_finetuning"] = int(values.get("number_of_gpu_to_use_finetuning", gpus))
    given["train_file_path"] = jobs.FileInput(train)
    given["test_file_path"] = jobs.FileInput(test)
    if base is not None:
        given["mlflow_model_path"] = jobs.ModelInput(base.id)
    else:
        given["huggingface_id"] = settings.base_model.huggingface_id
    return given


def literal(value: Any) -> Any:
    """A value as the pipeline's inputs take it: booleans and enums are lower-case strings."""
    return str(value).lower() if isinstance(value, bool) else value


def folder_hash(folder: Path, *, without: Collection[str] = ()) -> str:
    """One hash over the names and contents of a folder's files, without caches, documents and the folders named."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        inside = path.relative_to(folder)
        ignored = "__pycache__" in path.parts or path.suffix == ".md" or inside.parts[0] in without
        if path.is_file() and not ignored:
            digest.update(f"{inside.as_posix()}\0".encode())
            digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()
