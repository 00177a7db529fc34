"""What the engine is started with, for the layouts that a model comes in."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from standin.layouts import write_mlflow_model
from tests.support.checkout import ROOT

SERVE = ROOT / "environments" / "serve"


@pytest.fixture(scope="module")
def engine() -> Iterator[ModuleType]:
    from importlib.util import module_from_spec, spec_from_file_location

    spec = spec_from_file_location("serve_engine", SERVE / "engine.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.modules["serve_engine"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    yield module
    del sys.modules["serve_engine"]


def flat(folder: Path, **config: int) -> Path:
    """A Hugging Face folder, as far as the launcher looks into it."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"num_attention_heads": 32, **config}))
    (folder / "model.safetensors").write_bytes(b"")
    (folder / "tokenizer.json").write_text("{}")
    (folder / "tokenizer_config.json").write_text("{}")
    (folder / "chat_template.jinja").write_text("x")
    return folder


def without_template(folder: Path) -> None:
    (folder / "chat_template.jinja").unlink()
    (folder / "tokenizer_config.json").write_text('{"chat_template": null}')


def value(arguments: list[str], name: str) -> str:
    return arguments[arguments.index(name) + 1]


def test_both_layouts_are_found(engine: ModuleType, tmp_path: Path) -> None:
    ours = flat(tmp_path / "ours" / "mlflow" / "artifacts" / "model")
    model = engine.find_model(tmp_path / "ours")
    assert (model.weights, model.tokenizer, model.shard_sizes) == (ours, ours, (32,))
    theirs = tmp_path / "theirs" / "mlflow"
    theirs.parent.mkdir()
    write_mlflow_model(ours, output=theirs, repo="microsoft/Phi-3-mini-4k-instruct")
    model = engine.find_model(tmp_path / "theirs")
    assert (model.weights, model.tokenizer) == (theirs / "data" / "model", theirs / "data" / "tokenizer")


@pytest.mark.parametrize(
    ("breaks", "says"),
    [
        (lambda folder: (folder / "model.safetensors").unlink(), "no model below AZUREML_MODEL_DIR"),
        (lambda folder: flat(folder.parent / "another"), "2 models below AZUREML_MODEL_DIR"),
        (lambda folder: (folder / "tokenizer.json").unlink(), "has no tokenizer.json"),
        (lambda folder: (folder / "chat_template.jinja").unlink(), "has no chat template"),
        (without_template, "has no chat template"),
        (lambda folder: (folder / "config.json").write_text("{"), "config.json' cannot be read"),
        (lambda folder: (folder / "config.json").write_text("[]"), "config.json' holds no JSON object"),
    ],
)
def test_what_cannot_be_served_is_said_in_one_line(tmp_path: Path, breaks: object, says: str) -> None:
    folder = flat(tmp_path / "mounted" / "model")
    assert callable(breaks)
    breaks(folder)
    environment = {**os.environ, "AZUREML_MODEL_DIR": str(tmp_path / "mounted")}
    ended = subprocess.run([sys.executable, SERVE / "engine.py"], env=environment, capture_output=True, text=True)
    assert ended.returncode == 1
    assert says in ended.stderr
    assert ended.stderr.count("\n") == 1


def test_arguments(engine: ModuleType, tmp_path: Path) -> None:
    model = engine.find_model(flat(tmp_path / "model").parent)
    gpu = engine.arguments(model, {"MLOPS_ENGINE_ARGS": "--max-model-len 2048 --dtype half"}, gpus=1)
    assert (value(gpu, "--host"), value(gpu, "--port"), value(gpu, "--middleware")) == (
        "0.0.0.0",
        "5001",
        "front.Front",
    )
    assert gpu[-4:] == ["--max-model-len", "2048", "--dtype", "half"]
    assert "--enforce-eager" not in gpu
    cpu = engine.arguments(model, {"MLOPS_HOST": "127.0.0.1", "MLOPS_PORT": "7"}, gpus=0)
    assert (value(cpu, "--host"), value(cpu, "--port")) == ("127.0.0.1", "7")
    assert (value(cpu, "--dtype"), "--enforce-eager" in cpu) == ("float32", True)
    assert "--no-enable-log-requests" in cpu


@pytest.mark.parametrize(
    ("heads", "kv_heads", "inner", "gpus", "used"),
    [
        (32, 32, 8192, 4, 4),
        (40, 10, 8192, 4, 2),
        (32, 8, 8192, 8, 8),
        (40, 10, 8192, 1, 1),
        (24, 8, 8192, 3, 2),
        (20, 20, 8192, 8, 4),
    ],
)
def test_the_model_is_dealt_out_evenly(
    engine: ModuleType, tmp_path: Path, heads: int, kv_heads: int, inner: int, gpus: int, used: int
) -> None:
    config = {"num_attention_heads": heads, "num_key_value_heads": kv_heads, "intermediate_size": inner}
    flat(tmp_path / "model", **config)
    arguments = engine.arguments(engine.find_model(tmp_path), {}, gpus=gpus)
    assert value(arguments, "--tensor-parallel-size") == str(used)


@pytest.mark.parametrize(
    "extra",
    [
        *["--trust-remote-code", "--trust_remote_code=true", "--trust", "--enable-log-outputs", "'unclosed"],
        *["--enable_log_r", "--config file.yaml", "--conf=file.yaml", "--api-key secret", "--enable-prompt-embeds"],
    ],
)
def test_what_is_unsafe_is_refused(engine: ModuleType, extra: str) -> None:
    with pytest.raises(engine.NotServed, match="MLOPS_ENGINE_ARGS"):
        engine.extra({"MLOPS_ENGINE_ARGS": extra})


def test_a_request_asks_for_what_the_contract_allows_and_not_for_much_more(engine: ModuleType, tmp_path: Path) -> None:
    schema = json.loads((SERVE / "payload.schema.json").read_text(encoding="utf-8"))
    model = engine.find_model(flat(tmp_path / "model").parent)
    variables = engine.variables(model, {"VLLM_MAX_N_SEQUENCES": "2"})
    assert int(variables["VLLM_MAX_STOP_STRINGS"]) == schema["$defs"]["parameters"]["properties"]["stop"]["maxItems"]
    assert (variables["VLLM_MAX_N_SEQUENCES"], variables["VLLM_MAX_COMPLETION_PROMPTS"]) == ("2", "256")


def test_the_server_reaches_nobody_and_imports_the_contract(engine: ModuleType, tmp_path: Path) -> None:
    model = engine.find_model(flat(tmp_path / "model").parent)
    variables = engine.variables(model, {"PYTHONPATH": "/else", "HF_HUB_OFFLINE": "0", "KEPT": "yes"})
    assert (variables["HF_HUB_OFFLINE"], variables["VLLM_NO_USAGE_STATS"], variables["KEPT"]) == ("1", "1", "yes")
    assert variables["PYTHONPATH"] == f"{SERVE}{os.pathsep}/else"
