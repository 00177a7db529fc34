"""Lays a model folder out the way that a consumer expects to find it.

    python components/standin/layouts.py --model FOLDER --hub-cache HF_HOME --repo microsoft/Phi-3-mini-4k-instruct
    python components/standin/layouts.py --model FOLDER --mlflow FOLDER

The first makes an offline cache of the Hugging Face hub, in which `snapshot_download` finds the model under the
given name. The second makes an MLflow model of the layout that Azure ML's registry uses for its chat models.
"""

import argparse
import hashlib
import json
import shutil
from pathlib import Path

MLMODEL = """\
flavors:
  hftransformersv2:
    code: null
    hf_config_class: AutoConfig
    hf_pretrained_class: AutoModelForCausalLM
    hf_tokenizer_class: AutoTokenizer
    huggingface_id: {repo}
    model_data: data
    pytorch_version: 2.13.0
    task_type: chat-completion
    transformers_version: 5.23.0
  python_function:
    data: data
    env: conda.yaml
    loader_module: azureml.evaluate.mlflow.hftransformers
    python_version: 3.11.7
metadata:
  azureml.base_image: mcr.microsoft.com/azureml/openmpi4.1.0-ubuntu22.04
  base_model_name: {name}
  base_model_task: chat-completion
model_uuid: {uuid}
"""


def files_of(model: Path) -> list[Path]:
    """The model folder's files, in an order that does not depend on the file system."""
    return sorted(path for path in model.iterdir() if path.is_file())


def sha256(path: Path) -> str:
    """A file's SHA-256, in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def write_hub_cache(model: Path, *, hf_home: Path, repo: str) -> Path:
    """Puts the model into a hub cache, under a revision made from its content.

    Args:
        model: a Hugging Face folder.
        hf_home: what `HF_HOME` will point to; other models in it stay.
        repo: the name to be found under, `owner/name`.

    Returns:
        The snapshot's folder.
    """
    sums = {path.name: sha256(path) for path in files_of(model)}
    revision = hashlib.sha1(json.dumps(sums, sort_keys=True).encode(), usedforsecurity=False).hexdigest()
    root = hf_home / "hub" / f"models--{repo.replace('/', '--')}"
    snapshot = root / "snapshots" / revision
    if not snapshot.is_dir():
        temporary = root / "snapshots" / f".{revision}.part"
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        (root / "blobs").mkdir(exist_ok=True)
        for path in files_of(model):
            blob = root / "blobs" / sums[path.name]
            if not blob.exists():
                shutil.copyfile(path, blob)
            (temporary / path.name).symlink_to(Path("../../blobs") / sums[path.name])
        temporary.rename(snapshot)
    (root / "refs").mkdir(exist_ok=True)
    pointer = root / "refs" / ".main.part"
    pointer.write_text(revision, encoding="utf-8")
    pointer.rename(root / "refs" / "main")
    return snapshot


def write_mlflow_model(model: Path, *, output: Path, repo: str) -> None:
    """Writes the model as the registry's MLflow models are: weights in data/model, tokenizer in data/tokenizer."""
    temporary = output.with_name(f".{output.name}.part")
    shutil.rmtree(temporary, ignore_errors=True)
    for part in ("model", "tokenizer", "config"):
        (temporary / "data" / part).mkdir(parents=True)
    for path in files_of(model):
        is_tokenizer = path.name.startswith(("tokenizer", "special_tokens", "chat_template", "added_tokens"))
        shutil.copyfile(path, temporary / "data" / ("tokenizer" if is_tokenizer else "model") / path.name)
        if path.name == "config.json":
            shutil.copyfile(path, temporary / "data" / "config" / path.name)
    uuid = hashlib.sha256((temporary / "data" / "model" / "config.json").read_bytes()).hexdigest()[:32]
    text = MLMODEL.format(repo=repo, name=repo.rpartition("/")[2], uuid=uuid)
    (temporary / "MLmodel").write_text(text, encoding="utf-8")
    shutil.rmtree(output, ignore_errors=True)
    temporary.rename(output)


def main(argv: list[str] | None = None) -> int:
    """Writes the layouts that the command line asks for."""
    parser = argparse.ArgumentParser(description="Lay a model folder out for the hub's cache or as an MLflow model.")
    parser.add_argument("--model", type=Path, required=True, help="a Hugging Face folder")
    parser.add_argument("--repo", default="microsoft/Phi-3-mini-4k-instruct", help="the name to be found under")
    parser.add_argument("--hub-cache", type=Path, help="folder that HF_HOME will point to")
    parser.add_argument("--mlflow", type=Path, help="folder for the MLflow model")
    arguments = parser.parse_args(argv)
    if not (arguments.model / "config.json").is_file():
        parser.error(f"'{arguments.model}' is no model folder: it has no config.json")
    if arguments.hub_cache is None and arguments.mlflow is None:
        parser.error("say where to: --hub-cache HF_HOME, --mlflow FOLDER, or both")
    if arguments.hub_cache is not None:
        print(write_hub_cache(arguments.model, hf_home=arguments.hub_cache, repo=arguments.repo))
    if arguments.mlflow is not None:
        write_mlflow_model(arguments.model, output=arguments.mlflow, repo=arguments.repo)
        print(arguments.mlflow)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
