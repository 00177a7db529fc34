"""Memory by the model's shape, the batch that fits, and what is refused before the first step."""

from __future__ import annotations

import dataclasses
import sys
from types import SimpleNamespace

import pytest

from chat_completion.common.refusal import Refusal
from chat_completion.trainer.memory import GIB, Shape, choose_tokens, estimate
from chat_completion.trainer.preflight import Plan, Size, Speed, fit, steps_of

PHI3_MINI = Shape(
    weights=3_821_079_552, trained=25_165_824, layers=32, hidden=3072, keys=3072, intermediate=8192, vocabulary=32_064
)
ALL = dataclasses.replace(PHI3_MINI, trained=PHI3_MINI.weights)


def test_phi3_mini_on_an_a100() -> None:
    memory = estimate(PHI3_MINI, half=True, fused_layers=True, optim="adamw_torch")
    assert 7 < memory.weights / GIB < 7.5
    assert memory.gradients + memory.optimiser < 0.3 * GIB
    tokens, twice = choose_tokens(memory, 80 * GIB, longest=4096, most=16_384) or (0, True)
    assert (tokens >= 8192, twice) == (True, False)
    # On a small GPU the same model needs its activations computed twice; on a smaller one there is no way.
    small = choose_tokens(memory, 16 * GIB, longest=4096, most=16_384)
    assert small is not None
    assert small[1]
    assert choose_tokens(memory, 8 * GIB, longest=4096, most=16_384) is None


def test_all_weights_of_phi3_mini_on_one_h200() -> None:
    memory = estimate(ALL, half=True, fused_layers=True, optim="adamw_torch")
    assert 60 < (memory.gradients + memory.optimiser + memory.weights) / GIB < 72
    assert choose_tokens(memory, 139 * GIB, longest=4096, most=16_384) is not None


def test_what_zero_spreads() -> None:
    """With DeepSpeed weights and gradients are kept in 16 bits, 32 are the optimiser's matter."""
    alone, one, two, three = (
        estimate(ALL, half=True, fused_layers=True, optim="adamw_torch", processes=4, zero_stage=stage)
        for stage in range(4)
    )
    weights = ALL.weights
    assert alone.weights == 3 * one.weights == 3 * two.weights == 12 * three.weights == 6 * weights
    assert two.gradients == weights * 2 / 4 + 2e9
    assert one.gradients - two.gradients == weights * 2 * 3 / 4
    assert one.optimiser == two.optimiser == three.optimiser == weights * 12 / 4
    # With its optimiser in the host's memory, all of Phi-3-mini is trained on a GPU of 40 GB.
    aside = estimate(ALL, half=True, fused_layers=True, optim="adamw_torch", zero_stage=2, offload=True)
    assert aside.optimiser == 0
    assert choose_tokens(aside, 40 * GIB, longest=4096, most=16_384) is not None
    assert choose_tokens(alone, 40 * GIB, longest=4096, most=16_384) is None
    assert estimate(ALL, half=False, fused_layers=False, optim="adafactor").optimiser < alone.optimiser / 50


def test_a_batch_holds_the_longest_conversation_and_no_more_than_is_of_use() -> None:
    memory = estimate(PHI3_MINI, half=True, fused_layers=True, optim="adamw_torch")
    assert choose_tokens(memory, 1000 * GIB, longest=100, most=800) == (800, False)
    assert choose_tokens(memory, 1000 * GIB, longest=900, most=800) == (900, False)


@pytest.mark.parametrize(
    ("fits", "expected"),
    [
        (lambda size: True, Size(8000, False)),
        (lambda size: size.tokens <= 2500, Size(2000, False)),
        (lambda size: size.recompute, Size(1500, True)),
    ],
)
def test_a_batch_is_made_smaller_until_it_fits(fits: object, expected: Size) -> None:
    import torch

    def run(size: Size) -> Speed:
        if not fits(size):  # type: ignore[operator]
            raise torch.OutOfMemoryError
        return Speed(1.0, size.tokens, None)

    assert fit(Size(8000, False), least=1500, run=run) == (expected, Speed(1.0, expected.tokens, None))


def test_a_conversation_that_does_not_fit_is_refused() -> None:
    import torch

    def run(size: Size) -> Speed:
        raise torch.OutOfMemoryError

    with pytest.raises(Refusal, match=r"1500 tokens does not fit.*max_seq_length"):
        fit(Size(8000, False), least=1500, run=run)


def test_steps() -> None:
    assert steps_of(conversations=30, per_step=8, epochs=3, max_steps=-1) == 12
    assert steps_of(conversations=30, per_step=8, epochs=3, max_steps=5) == 5


def test_what_is_said() -> None:
    plan = Plan(
        conversations=1000,
        tokens=90_000,
        truncated_conversations=7,
        truncated_tokens=800,
        conversations_per_step=8,
        steps=375,
        tokens_per_batch=4096,
        recompute=False,
        attention="packed_varlen",
        fused_layers=True,
        device_gib=80.0,
        estimated_gib=30.0,
        measured_gib=28.5,
        tokens_per_s=12_000.0,
        hours=0.25,
    )
    text = "\n".join(plan.lines())
    for part in ("375 steps of 8", "up to 4,096 tokens", "28.50 were", "cut 800 tokens off 7", "about 0.25 hours"):
        assert part in text
    assert plan.params()["preflight_steps"] == 375


def test_kernels_that_cannot_be_compiled_are_no_reason_not_to_train(monkeypatch: pytest.MonkeyPatch) -> None:
    from chat_completion.common.device import Device
    from chat_completion.trainer.kernels import fuse_layers

    def norm(_: int) -> None:
        raise RuntimeError("Failed to find C compiler")

    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    for name in ("liger_kernel", "liger_kernel.transformers"):
        monkeypatch.setitem(sys.modules, name, SimpleNamespace(LigerRMSNorm=norm))
    fused, why = fuse_layers(None, Device(gpus=1, bf16=True, capability=(9, 0)))
    assert (fused, why) == (False, "Liger's kernels do not run here: Failed to find C compiler")
