"""Adapters on weights of 4 bits: which are, what is learnt, what is written, and what is refused."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

from chat_completion.common.refusal import Refusal
from chat_completion.trainer.memory import GIB, estimate, shape_of
from chat_completion.trainer.model import Lora, load_model, save_model
from tests.unit.components.conftest import StandIn, run_step, split, succeed
from tests.unit.components.tiny import curve, finish, model, start, train, write_inputs
from tests.unit.components.trainer.test_model import added_by, stored
from tests.unit.components.trainer.test_preflight import PHI3_MINI

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")]

installed = pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is None,
    reason="bitsandbytes is not installed: pip install bitsandbytes==0.50.2",
)
LORA = Lora(r=4, alpha=8, dropout=0.0, merge=True)
LEARNING = {
    "apply_lora": "true",
    "lora_r": 8,
    "lora_alpha": 16,
    "learning_rate": 0.005,
    "logging_steps": 1,
    "per_device_train_batch_size": 8,
    "num_train_epochs": 3,
}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return write_inputs(tmp_path_factory.mktemp("inputs"))


def in_four_bits(base: Path) -> Any:
    return load_model(base, lora=LORA, dtype="float32", ignore_mismatched_sizes=False, four_bits=True)


@installed
def test_linear_layers_are_packed_and_nothing_else(tmp_path: Path) -> None:
    import torch

    model().save_pretrained(tmp_path)
    whole = in_four_bits(tmp_path)
    packed = {name.rpartition(".base_layer")[0] for name, one in whole.named_parameters() if one.dtype == torch.uint8}
    assert len(packed) == 8
    assert {name.rpartition(".")[2] for name in packed} == {"qkv_proj", "o_proj", "gate_up_proj", "down_proj"}
    others = [weight.dtype for weight in whole.parameters() if weight.dtype != torch.uint8]
    assert set(others) == {torch.float32}
    plain = shape_of(load_model(tmp_path, lora=LORA, dtype="float32", ignore_mismatched_sizes=False))
    shape = shape_of(whole)
    assert (shape.weights, shape.trained, plain.packed) == (plain.weights, plain.trained, 0)
    # All of two layers but their norms; embedding and head stay.
    assert shape.packed == 2 * (96 * 32 + 32 * 32 + 96 * 32 + 48 * 32)


@installed
def test_the_adapter_is_merged_into_the_weights_as_they_were_stored(tmp_path: Path) -> None:
    import torch

    base, output = tmp_path / "base", tmp_path / "output"
    model().save_pretrained(base)
    whole = in_four_bits(base)
    added = added_by(whole)
    save_model(whole, base=base, output=output, lora=LORA)
    before, after = stored(base), stored(output)
    assert before.keys() == after.keys()
    for name, weight in before.items():
        assert torch.equal(after[name], weight + added[name] if name in added else weight), name


@installed
def test_it_learns_as_adapters_on_whole_weights_do(standin: StandIn, tmp_path: Path) -> None:
    chats, tokens = tmp_path / "chats.jsonl", tmp_path / "tokens"
    chats.write_text("".join(split("train_sft").read_text(encoding="utf-8").splitlines(keepends=True)[:160]))
    inputs = {"model_selector_output": standin.model}
    succeed(run_step("preprocess", train_file_path=chats, output_dir=tokens, **inputs))
    inputs["preprocess_output"] = tokens
    log = train(tmp_path / "four", **inputs, **LEARNING, precision=4)
    assert "a machine without GPU computes in 32" in log
    assert "the frozen layers in 4 bits" in log
    train(tmp_path / "whole", **inputs, **LEARNING)
    four, whole = ([line["loss"] for line in curve(tmp_path / name) if "loss" in line] for name in ("four", "whole"))
    differences = [abs(mine - theirs) for mine, theirs in zip(four, whole, strict=True)]
    assert 0 < max(differences) < 0.05
    assert sum(four[:10]) / 10 - sum(four[-10:]) / 10 > 0.1


def test_what_cannot_be_packed_is_refused(
    inputs: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = finish(start(tmp_path / "out", **inputs, precision=4), tmp_path / "out", code=2)
    assert "precision 4 needs apply_lora 'true'" in log
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(Refusal, match="no package 'bitsandbytes'"):
        in_four_bits(inputs["model_selector_output"])


def test_memory_of_phi3_mini_in_four_bits() -> None:
    import dataclasses

    layers = PHI3_MINI.weights - 2 * PHI3_MINI.vocabulary * PHI3_MINI.hidden - 65 * PHI3_MINI.hidden
    packed = dataclasses.replace(PHI3_MINI, weights=PHI3_MINI.weights + PHI3_MINI.trained, packed=layers)
    needed = estimate(packed, half=True, fused_layers=True, optim="adamw_torch")
    # 1.74 GiB for the layers, 0.37 for embedding and head, 0.14 for the adapters, 0.09 for one layer unpacked.
    assert 2.2 < needed.weights / GIB < 2.5
    whole = estimate(PHI3_MINI, half=True, fused_layers=True, optim="adamw_torch")
    assert needed.per_token == whole.per_token
