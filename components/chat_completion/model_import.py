"""Step 2: brings the base model into one flat folder, from wherever the inputs say it is."""

import json
from dataclasses import dataclass
from pathlib import Path

from chat_completion.common.arguments import parse
from chat_completion.common.model_folder import HUB_PATTERNS, METADATA, copy_model, find_model, read_json, write_json
from chat_completion.common.refusal import Refusal, run_step
from chat_completion.data.template import PHI3_TEMPLATE, is_phi3_format


@dataclass(frozen=True)
class Inputs:
    """Exactly one of the three sources.

    Attributes:
        huggingface_id: a model on the Hugging Face hub, or in its offline cache: `owner/name` or
            `owner/name@revision`.
        pytorch_model_path: a Hugging Face folder.
        mlflow_model_path: an MLflow model that holds one.
        validation_output: what the validation step wrote; it is here so that this step waits for it.
    """

    output_dir: Path
    huggingface_id: str | None = None
    pytorch_model_path: Path | None = None
    mlflow_model_path: Path | None = None
    validation_output: Path | None = None


def from_hub(name: str) -> Path:
    """Downloads a model of the hub, or finds it in the cache when the hub is switched off.

    Raises:
        Refusal: when the model is in neither, or has no safetensors.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    repo, _, revision = name.partition("@")
    try:
        folder = snapshot_download(repo, revision=revision or None, allow_patterns=list(HUB_PATTERNS))
    except LocalEntryNotFoundError as error:
        raise Refusal(f"huggingface_id '{name}' is not in the offline cache, and the hub is out of reach") from error
    except HFValidationError as error:
        raise Refusal(f"huggingface_id '{name}' is not a valid model name: expected 'owner/name'") from error
    except HfHubHTTPError as error:
        raise Refusal(f"huggingface_id '{name}': the hub answered: {error}") from error
    return Path(folder)


def source(inputs: Inputs) -> tuple[str, str, Path]:
    """Which source the inputs name: its kind, what to call it, and the folder."""
    sources = {
        name: value
        for name in ("huggingface_id", "pytorch_model_path", "mlflow_model_path")
        if (value := getattr(inputs, name)) is not None
    }
    if len(sources) != 1:
        names = " and ".join(sources) or "none of them"
        raise Refusal(f"give one of huggingface_id, pytorch_model_path, mlflow_model_path; got {names}")
    ((kind, value),) = sources.items()
    if kind == "huggingface_id":
        return kind, str(value), from_hub(str(value))
    if not Path(value).is_dir():
        raise Refusal(f"{kind} '{value}' is no folder")
    return kind, Path(value).name, Path(value)


def settle_template(folder: Path) -> bool:
    """Gives a model of Phi-3's format the one chat template that training and serving share.

    Returns:
        Whether it is such a model.
    """
    vocabulary = read_json(folder / "tokenizer.json").get("added_tokens", [])
    if not is_phi3_format({token["content"]: token["id"] for token in vocabulary}):
        return False
    (folder / "chat_template.jinja").write_text(PHI3_TEMPLATE, encoding="utf-8")
    path = folder / "tokenizer_config.json"
    if path.is_file():
        settings = read_json(path)
        settings.pop("chat_template", None)
        write_json(path, settings)
    return True


def run(argv: list[str]) -> None:
    """Imports the base model."""
    inputs = parse(Inputs, argv, description="Bring the base model into one folder.")
    kind, name, folder = source(inputs)
    weights, tokenizer = find_model(folder)
    unsafe_files = copy_model(weights, tokenizer, inputs.output_dir)
    if unsafe_files:
        print(f"left behind, for they can run code: {', '.join(unsafe_files)}")
    phi3 = settle_template(inputs.output_dir)
    config = read_json(inputs.output_dir / "config.json")
    metadata = {"source": kind, "name": name, "model_type": config.get("model_type"), "phi3_format": phi3}
    write_json(inputs.output_dir / METADATA, metadata)
    print(json.dumps(metadata))


if __name__ == "__main__":
    raise SystemExit(run_step("model_import", run))
