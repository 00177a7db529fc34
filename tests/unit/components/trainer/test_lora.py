"""Adapters inside the matrix product learn what PEFT's own forward learns."""

from __future__ import annotations

from typing import Any

import pytest

from chat_completion.trainer.lora import fuse_adapters
from tests.unit.components.tiny import VOCABULARY, model

# PEFT asks transformers by a name that its next version drops.
pytestmark = pytest.mark.filterwarnings("ignore:.*gradient_checkpointing:FutureWarning")

TARGETS = ["qkv_proj", "o_proj", "gate_up_proj", "down_proj"]


def adapted_model(**lora: Any) -> Any:
    """The tiny Phi-3 with adapters that do something already."""
    import torch
    from peft import LoraConfig, get_peft_model

    base = model()
    torch.manual_seed(0)
    wrapped = get_peft_model(
        base, LoraConfig(**{"task_type": "CAUSAL_LM", "r": 4, "lora_alpha": 9, "target_modules": TARGETS} | lora)
    )
    for name, weight in wrapped.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.3)
    return wrapped


def gradients(wrapped: Any, *, half: bool = False, seed: int = 2) -> tuple[float, dict[str, Any]]:
    """The loss of a batch of two rows, and each trained weight's gradient."""
    import torch

    torch.manual_seed(seed)
    ids = torch.randint(0, VOCABULARY, (2, 30))
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
        loss = wrapped(input_ids=ids, labels=ids, use_cache=False).loss
    loss.backward()
    return loss.item(), {name: weight.grad for name, weight in wrapped.named_parameters() if weight.grad is not None}


def distance(actual: dict[str, Any], expected: dict[str, Any]) -> float:
    """Length of the difference of two sets of gradients, as a share of the second's."""
    assert actual.keys() == expected.keys()
    squares = [
        sum(float((grad**2).sum()) for grad in grads)
        for grads in ([actual[name] - expected[name] for name in expected], expected.values())
    ]
    return float((squares[0] / squares[1]) ** 0.5)


def test_the_gradients_are_pefts() -> None:
    loss, expected = gradients(adapted_model())
    fused = adapted_model()
    assert fuse_adapters(fused) == 8
    actual_loss, actual = gradients(fused)
    assert actual_loss == pytest.approx(loss, rel=1e-6)
    assert distance(actual, expected) < 1e-5
    assert len(actual) == 16  # the frozen weights have none


def test_in_sixteen_bits_they_are_as_near_the_truth_as_pefts() -> None:
    theirs, ours = [], []
    for seed in range(8):
        _, truth = gradients(adapted_model(), seed=seed)
        theirs.append(distance(gradients(adapted_model(), half=True, seed=seed)[1], truth))
        fused = adapted_model()
        fuse_adapters(fused)
        actual = gradients(fused, half=True, seed=seed)[1]
        assert {str(grad.dtype) for grad in actual.values()} == {"torch.float32"}
        ours.append(distance(actual, truth))
    assert sum(ours) < 1.15 * sum(theirs)


def test_an_adapter_that_is_switched_off_does_nothing() -> None:
    import torch

    fused, ids = adapted_model(), torch.arange(20).unsqueeze(0)
    fuse_adapters(fused)
    with torch.no_grad():
        on = fused(input_ids=ids, use_cache=False).logits
        with fused.disable_adapter():
            off = fused(input_ids=ids, use_cache=False).logits
        merged = fused.merge_and_unload()(input_ids=ids, use_cache=False).logits
    assert torch.equal(off, model()(input_ids=ids, use_cache=False).logits)
    assert not torch.allclose(on, off)
    assert torch.allclose(merged, on, atol=1e-4)


@pytest.mark.parametrize("lora", [{"lora_dropout": 0.1}, {"use_dora": True}], ids=str)
def test_other_kinds_keep_pefts_forward(lora: dict[str, Any]) -> None:
    assert fuse_adapters(adapted_model(**lora)) == 0
