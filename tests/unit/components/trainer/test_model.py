"""The trained model on disk: an adapter meets the base's weights in the precision that they are stored in."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from chat_completion.common.refusal import Refusal
from chat_completion.package import merge_adapter
from chat_completion.trainer.model import ADAPTER, Lora, load_model, save_model
from tests.unit.components.tiny import model

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")  # what PEFT calls, transformers will rename

LORA = Lora(r=4, alpha=8, dropout=0.0, merge=True)


def stored(folder: Path) -> dict[str, Any]:
    """The weights of a model's folder, by name, and nothing twice."""
    from safetensors.torch import load_file

    tensors: dict[str, Any] = {}
    for path in sorted(folder.glob("*.safetensors")):
        part = load_file(path)
        assert not tensors.keys() & part.keys()
        tensors |= part
    return tensors


def added_by(whole: Any) -> dict[str, Any]:
    """Teaches a model's adapters something; what they add to the base's weights, by name, in 32 bits."""
    import torch

    torch.manual_seed(5)
    added = {}
    for name, module in whole.named_modules():
        if hasattr(module, "lora_B"):
            down, up = (getattr(module, part)["default"].weight for part in ("lora_A", "lora_B"))
            torch.nn.init.normal_(up, std=0.02)
            added[f"{name.removeprefix('base_model.model.')}.weight"] = (up @ down).detach() * LORA.alpha / LORA.r
    assert len(added) == 8
    return added


@pytest.mark.parametrize(("kept", "computed"), [("float32", "bfloat16"), ("bfloat16", "float32")])
def test_merged_weights_are_rounded_once_and_the_others_not_at_all(tmp_path: Path, kept: str, computed: str) -> None:
    import torch

    base, output, separate = (tmp_path / name for name in ("base", "output", "beside"))
    model().to(getattr(torch, kept)).save_pretrained(base, max_shard_size="20KB")
    assert (base / "model.safetensors.index.json").is_file()
    whole = load_model(base, lora=LORA, dtype=computed, ignore_mismatched_sizes=False)
    added = added_by(whole)
    save_model(whole, base=base, output=separate, lora=dataclasses.replace(LORA, merge=False))
    save_model(whole, base=base, output=output, lora=LORA)
    before, after = stored(base), stored(output)
    assert before.keys() == after.keys()
    for name, weight in before.items():
        expected = (weight.float() + added[name]).to(weight.dtype) if name in added else weight
        assert torch.equal(after[name], expected), name
    assert not list(output.glob("*.index.json"))  # the base's, which names parts that are not there
    assert not (output / ADAPTER).exists()
    packed = stored(merge_adapter(separate, tmp_path / "merged"))
    assert all(torch.equal(packed[name], weight) for name, weight in after.items())


def test_weights_of_another_size_are_drawn_anew_only_where_they_are_trained(tmp_path: Path) -> None:
    model().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"vocab_size": 70}))
    for lora, ignore in ((LORA, True), (None, False)):
        with pytest.raises(Refusal, match=r"'lm_head.weight' has another size.*apply_lora false"):
            load_model(tmp_path, lora=lora, dtype="float32", ignore_mismatched_sizes=ignore)
    assert load_model(tmp_path, lora=None, dtype="float32", ignore_mismatched_sizes=True).lm_head.weight.shape[0] == 70


@pytest.mark.parametrize("lora", [LORA, None], ids=["adapters", "all weights"])
def test_a_base_model_that_lacks_a_weight_is_not_filled_up_by_chance(tmp_path: Path, lora: Lora | None) -> None:
    from safetensors.torch import save_file

    model().save_pretrained(tmp_path)
    whole = stored(tmp_path)
    del whole["model.layers.1.mlp.down_proj.weight"]
    save_file(whole, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(Refusal, match=r"'model.layers.1.mlp.down_proj.weight' is missing"):
        load_model(tmp_path, lora=lora, dtype="float32", ignore_mismatched_sizes=False)
