"""DeepSpeed's ZeRO for real, on processors without a GPU: what is learnt with it is what is learnt without.

DeepSpeed is no requirement of these tests (it comes with the training's image): `pip install deepspeed ninja`, in an
environment beside the project's, brings what they need; they are skipped where it is missing.
"""

from __future__ import annotations

import importlib.util
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from chat_completion.data.tokens import TokenFile
from chat_completion.trainer.sameness import plain_loss
from tests.unit.components.tiny import VOCABULARY, curve, finish, start_ranks, train, write_inputs
from tests.unit.components.trainer.test_interruptions import EVERY_STEP, kill_after

pytestmark = [
    pytest.mark.slow,
    pytest.mark.full,
    pytest.mark.skipif(not os.environ.get("MLOPS_FULL"), reason="MLOPS_FULL=1 runs it"),
    pytest.mark.skipif(importlib.util.find_spec("deepspeed") is None, reason="DeepSpeed is not installed"),
]

COMMON: dict[str, Any] = {
    "num_train_epochs": 2,
    "per_device_train_batch_size": 8,
    "logging_steps": 1,
    "lr_scheduler_type": "cosine",
    "evaluation_strategy": "steps",
    "eval_steps": 3,
    "weight_decay": 0.1,
    "warmup_steps": 2,
}
LORA: dict[str, Any] = {"apply_lora": "true", "lora_r": 4, "learning_rate": 0.01}
ALL: dict[str, Any] = {"learning_rate": 0.001}
ZERO: dict[str, Any] = {"apply_deepspeed": "true", "deepspeed_stage": 3}


def on_cpu() -> None:
    """From now on this process applies ZeRO on its CPU, and does what it does for a large model.

    A step is several packed batches, activations are computed twice, logits are made piece by piece.
    """
    import deepspeed

    from chat_completion.common.device import Device
    from chat_completion.trainer import loss, preflight, recipe, zero

    choose, generate = zero.choose_deepspeed, zero.generated_deepspeed

    def partition(stage: int) -> dict[str, Any]:
        configuration = generate(stage)
        # Otherwise weights as small as these stay whole.
        configuration["zero_optimization"]["stage3_param_persistence_threshold"] = 0
        return configuration

    gpu = Device(gpus=1, bf16=True)
    zero.generated_deepspeed = partition
    recipe.choose_deepspeed = lambda **asked: choose(**asked | {"device": gpu})  # type: ignore[attr-defined]
    preflight.choose_tokens = lambda *_, **__: (30, True)  # type: ignore[attr-defined]
    loss.MOST_VALUES = 3 * VOCABULARY
    deepspeed.init_distributed("gloo", auto_mpi_discovery=False)


def in_sixteen_bits() -> None:
    """From now on this process computes in bfloat16."""
    from chat_completion import finetune
    from chat_completion.trainer import recipe

    for module in (recipe, finetune):
        module.choose_precision = lambda *_: ("bfloat16", None)  # type: ignore[attr-defined]


def on_cpu_in_sixteen_bits() -> None:
    """Both."""
    in_sixteen_bits()
    on_cpu()


def zero(out: Path, *, processes: int = 1, before: Callable[[], None] = on_cpu, code: int = 0, **inputs: Any) -> str:
    """Trains with ZeRO; the log."""
    inputs |= {"per_device_train_batch_size": inputs["per_device_train_batch_size"] // processes}
    env = {"DS_ACCELERATOR": "cpu"} | inputs.pop("env", {})
    started = start_ranks(out, processes=processes, env=env, before=before, **inputs)
    return [finish(process, out, code=code) for process in started][-1]


def same(one: Path, other: Path, *, within: float = 1e-3, but: str = "") -> None:
    """Asserts that two trainings have the same curve and end with the same weights, rounding aside."""
    from safetensors.torch import load_file

    for expected, actual in zip(curve(one), curve(other), strict=True):
        for name in {*expected} - {but}:
            assert actual[name] == pytest.approx(expected[name], rel=within), f"{name} at step {expected['step']}"
    expected_weights, found_weights = (load_file(out / "model.safetensors") for out in (one, other))
    assert expected_weights.keys() == found_weights.keys()
    for name, weight in expected_weights.items():
        assert (found_weights[name] - weight).abs().max() < 10 * within * weight.abs().max(), name


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return write_inputs(tmp_path_factory.mktemp("inputs"))


@pytest.mark.parametrize(("settings", "stage", "processes"), [(ALL, 2, 1), (ALL, 2, 2), (ALL, 3, 2), (LORA, 3, 2)])
def test_zero_learns_what_is_learnt_without_it(
    inputs: dict[str, Any], tmp_path: Path, settings: dict[str, Any], stage: int, processes: int
) -> None:
    train(tmp_path / "plain", **inputs, **COMMON, **settings)
    options = ZERO | {"deepspeed_stage": stage}
    log = zero(tmp_path / "zero", processes=processes, **inputs, **COMMON, **settings, **options)
    assert f"DeepSpeed is applied: ZeRO, stage {stage}" in log
    same(tmp_path / "plain", tmp_path / "zero")


@pytest.mark.parametrize("settings", [ALL, LORA], ids=["all weights", "adapters"])
def test_in_sixteen_bits(inputs: dict[str, Any], tmp_path: Path, settings: dict[str, Any]) -> None:
    """There the two ways round otherwise, in each forward; their losses stay together."""
    options = COMMON | settings | {"precision": 16, "learning_rate": 0.001}
    train(tmp_path / "plain", before=in_sixteen_bits, **inputs, **options)
    zero(tmp_path / "zero", processes=2, before=on_cpu_in_sixteen_bits, **inputs, **options, **ZERO)
    for expected, actual in zip(curve(tmp_path / "plain"), curve(tmp_path / "zero"), strict=True):
        for name in {"loss", "eval_loss"} & {*expected}:
            assert actual[name] == pytest.approx(expected[name], rel=0.01)


def test_adapters_of_spread_weights_are_written_beside_the_base(inputs: dict[str, Any], tmp_path: Path) -> None:
    from safetensors.torch import load_file

    options = COMMON | LORA | {"merge_lora_weights": "false"}
    train(tmp_path / "plain", **inputs, **options)
    zero(tmp_path / "zero", processes=2, **inputs, **options, **ZERO)
    base = (inputs["model_selector_output"] / "model.safetensors").read_bytes()
    assert (tmp_path / "zero" / "model.safetensors").read_bytes() == base
    plain, actual = (load_file(tmp_path / name / "adapter" / "adapter_model.safetensors") for name in ("plain", "zero"))
    assert plain.keys() == actual.keys()
    for name, weight in plain.items():
        assert (actual[name] - weight).abs().max() < 1e-3, name


@pytest.mark.parametrize(("settings", "stage"), [(ALL, 2), (LORA, 3)])
def test_killed_and_taken_up_again(
    inputs: dict[str, Any], tmp_path: Path, settings: dict[str, Any], stage: int
) -> None:
    options = (
        COMMON
        | settings
        | ZERO
        | {
            "deepspeed_stage": stage,
            "resume_from_checkpoint": "true",
            "save_total_limit": 2,
            "num_train_epochs": 4,
            "apply_early_stopping": "true",
            "early_stopping_patience": 9,
        }
    )
    zero(tmp_path / "whole", processes=2, env=EVERY_STEP, **inputs, **options)
    out = tmp_path / "out"
    started = start_ranks(
        out,
        processes=2,
        env=EVERY_STEP | {"DS_ACCELERATOR": "cpu"},
        before=on_cpu,
        **inputs,
        **options | {"per_device_train_batch_size": 4},
    )
    kill_after(started[0], out, 9, wait_s=0.2)
    os.kill(started[1].pid or 0, signal.SIGKILL)
    started[1].join()
    log = zero(out, processes=2, env=EVERY_STEP, **inputs, **options)
    assert log.count("going on from checkpoint-") == 1
    same(tmp_path / "whole", out, within=1e-5)
    assert not (out / "checkpoints").exists()


@pytest.mark.parametrize("stage", [2, 3])
def test_it_stops_early_and_keeps_the_best(inputs: dict[str, Any], tmp_path: Path, stage: int) -> None:
    options = COMMON | {
        "learning_rate": 0.3,
        "num_train_epochs": 9,
        "apply_early_stopping": "true",
        "early_stopping_patience": 2,
        "save_total_limit": 1,
        "max_grad_norm": 0,
    }
    zero(tmp_path / "out", processes=2, **inputs, **options, **ZERO | {"deepspeed_stage": stage})
    losses = [line["eval_loss"] for line in curve(tmp_path / "out") if "eval_loss" in line]
    assert len(losses) == losses.index(min(losses)) + 3 < 12

    from transformers import AutoModelForCausalLM

    written = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval().requires_grad_(False)
    split = TokenFile(inputs["preprocess_output"] / "validation.arrow")
    assert plain_loss(written, [split.arrays(row) for row in range(len(split))]) == pytest.approx(min(losses), rel=1e-4)


def test_a_configuration_of_the_users_own(inputs: dict[str, Any], tmp_path: Path) -> None:
    """Its sizes are those of the inputs, its scheduler and optimiser its own."""
    own = tmp_path / "zero.json"
    own.write_text(
        json.dumps(
            {
                "zero_optimization": {"stage": 1},
                "gradient_accumulation_steps": 2,
                "train_micro_batch_size_per_gpu": 4,
                "train_batch_size": 8,
                "optimizer": {
                    "type": "AdamW",
                    "params": {
                        "lr": "auto",
                        "betas": "auto",
                        "eps": "auto",
                        "weight_decay": "auto",
                        "torch_adam": True,
                    },
                },
                "gradient_clipping": "auto",
            }
        )
    )
    train(tmp_path / "plain", **inputs, **COMMON, **LORA)
    options = COMMON | {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2}
    zero(tmp_path / "zero", **inputs, **options, **LORA, apply_deepspeed="true", deepspeed=own)
    # DeepSpeed turns the schedule before the line is logged; the step was taken with the same rate.
    same(tmp_path / "plain", tmp_path / "zero", but="learning_rate")

    own.write_text(json.dumps({"zero_optimization": {"stage": 1}, "bf16": {"enabled": True}}))
    log = zero(tmp_path / "other", code=2, **inputs, **COMMON, **LORA, apply_deepspeed="true", deepspeed=own)
    assert "bf16.enabled=True" in log
    assert "Traceback" not in log
