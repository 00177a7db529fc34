"""A model on disk: finding it in whatever folder it came in, and copying what is safe to load."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from chat_completion.common.refusal import Refusal

METADATA = "model_import.json"
"""Written beside an imported model: where it came from."""

PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib", ".msgpack", ".h5", ".npy", ".npz")
"""File formats of weights that can run code when they are loaded, or that nothing here reads."""

CODE = (".py", ".pyc", ".so", ".ipynb", ".sh")

SETTINGS = (".json", ".jinja", ".txt", ".model")
"""What a model needs beside its weights: configurations, tokenizers, chat templates."""

HUB_PATTERNS = ("*.safetensors", "*.json", "*.jinja", "*.txt", "tokenizer.model")


def find_model(folder: Path) -> tuple[Path, Path]:
    """The folder with the weights and the folder with the tokenizer, below `folder`.

    A Hugging Face folder holds both. The registry's MLflow models hold them in `data/model` and
    `data/tokenizer`, MLflow's own flavour in `model` and `components/tokenizer`, a pyfunc below `artifacts`.

    Raises:
        Refusal: when there is no model, or more than one.
    """
    weights = [path.parent for path in sorted(folder.rglob("config.json")) if any(path.parent.glob("*.safetensors"))]
    if not weights:
        pickles = [path.name for path in sorted(folder.rglob("*")) if path.suffix in PICKLES]
        if pickles:
            raise Refusal(
                f"'{pickles[0]}' is a format that can run code when it is loaded: only safetensors is read. "
                "Convert the weights first."
            )
        raise Refusal(f"no model in '{folder}': no folder below it holds both config.json and *.safetensors")
    if len(weights) > 1:
        names = ", ".join(str(path.relative_to(folder)) for path in weights)
        raise Refusal(f"more than one model in '{folder}': {names}")
    tokenizers = [path.parent for path in sorted(folder.rglob("tokenizer.json"))]
    if weights[0] in tokenizers:
        return weights[0], weights[0]
    if not tokenizers:
        raise Refusal(f"the model in '{folder}' has no tokenizer.json; slow tokenizers are not read")
    return weights[0], tokenizers[0]


def loadable_files(folder: Path) -> Iterator[Path]:
    """The files of a model folder that are copied: weights as safetensors, and settings.

    Adapters, optimisers' states and code stay behind.
    """
    for path in sorted(folder.iterdir()):
        if not path.is_file() or path.name in {METADATA, "training_args.json"}:
            continue
        if path.suffix == ".safetensors" or (path.suffix in SETTINGS and not path.name.endswith(".bin.index.json")):
            yield path


def copy_model(weights: Path, tokenizer: Path, output: Path) -> list[str]:
    """Copies a model into one flat Hugging Face folder.

    Returns:
        The names of the files that were left behind because they are pickles or code.
    """
    output.mkdir(parents=True, exist_ok=True)
    for folder in dict.fromkeys((weights, tokenizer)):
        for path in loadable_files(folder):
            shutil.copyfile(path, output / path.name)
    unsafe_files = {
        path.name for folder in (weights, tokenizer) for path in folder.iterdir() if path.suffix in PICKLES + CODE
    }
    return sorted(unsafe_files)


def copy_settings(folder: Path, output: Path) -> None:
    """Copies what a model's folder holds beside its weights."""
    output.mkdir(parents=True, exist_ok=True)
    for path in loadable_files(folder):
        if path.suffix != ".safetensors" and not path.name.endswith(".safetensors.index.json"):
            shutil.copyfile(path, output / path.name)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file's object.

    Raises:
        Refusal: where there is no such file, or it holds something else.
    """
    if not path.is_file():
        raise Refusal(f"no file at '{path}'")
    value = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(value, dict):
        raise Refusal(f"'{path}' holds no JSON object")
    return value


def write_json(path: Path, value: Any) -> None:
    """Writes a JSON file beside its place and moves it there."""
    temporary = path.with_name(f".{path.name}.part")
    temporary.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    temporary.rename(path)


def context_length(folder: Path) -> int:
    """The longest conversation, in tokens, that the model in `folder` was made for."""
    length = read_json(folder / "config.json").get("max_position_embeddings")
    if not isinstance(length, int) or length < 1:
        raise Refusal(f"'{folder / 'config.json'}' has no max_position_embeddings; set max_seq_length")
    return length
