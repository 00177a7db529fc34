"""The training step run whole, on a model of a few thousand weights: what its inputs do, alone and on two processes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.unit.components.tiny import curve, finish, start_ranks, train, write_inputs

pytestmark = [pytest.mark.slow]

LORA = {"apply_lora": "true", "lora_r": 4, "learning_rate": 0.01, "logging_steps": 1}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return write_inputs(tmp_path_factory.mktemp("inputs"))


def test_two_processes_learn_what_one_learns(inputs: dict[str, Any], tmp_path: Path) -> None:
    settings: dict[str, Any] = LORA | {"num_train_epochs": 2, "evaluation_strategy": "steps", "eval_steps": 3}
    # 30 conversations in steps of 8: the last step of an epoch holds 6, the last validation fewer than processes.
    train(tmp_path / "one", **inputs, **settings, per_device_train_batch_size=8)
    started = start_ranks(
        tmp_path / "two",
        processes=2,
        **inputs,
        **settings,
        per_device_train_batch_size=2,
        gradient_accumulation_steps=2,
        per_device_eval_batch_size=4,
    )
    log = [finish(process, tmp_path / "two") for process in started][-1]
    assert log.count("training 3,200 of") == 1
    one, two = curve(tmp_path / "one"), curve(tmp_path / "two")
    assert [line["step"] for line in one] == [line["step"] for line in two]
    for alone, shared in zip(one, two, strict=True):
        assert shared == pytest.approx(alone, rel=1e-3)


def test_fully_determined_runs_end_with_equal_weights(inputs: dict[str, Any], tmp_path: Path) -> None:
    settings = {"max_steps": 4, "enable_full_determinism": "true", "learning_rate": 0.01, "optim": "adafactor"}
    for name in ("one", "two", "other"):
        train(tmp_path / name, **inputs, **settings, seed=7 if name == "other" else 5)
    one, two, other = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("one", "two", "other"))
    assert one == two != other
    assert one != (inputs["model_selector_output"] / "model.safetensors").read_bytes()


def test_it_stops_early_and_keeps_the_best(inputs: dict[str, Any], tmp_path: Path) -> None:
    # So large a step makes the validation loss rise, so the first validation is the best.
    train(
        tmp_path / "out",
        **inputs,
        **LORA | {"learning_rate": 0.5},
        num_train_epochs=9,
        apply_early_stopping="true",
        early_stopping_patience=2,
        evaluation_strategy="steps",
        eval_steps=2,
        save_total_limit=1,
        warmup_steps=2,
        per_device_train_batch_size=4,
        max_grad_norm=0,
    )
    losses = [line["eval_loss"] for line in curve(tmp_path / "out") if "eval_loss" in line]
    best = losses.index(min(losses))
    assert len(losses) == best + 3
    assert len(losses) < 36


def test_what_the_inputs_do(inputs: dict[str, Any], tmp_path: Path) -> None:
    """One run per group of inputs; each shows in the log or in the curve."""
    log = train(
        tmp_path / "full",
        **inputs,
        max_steps=3,
        evaluation_strategy="disable",
        logging_strategy="epoch",
        precision=16,
        apply_deepspeed="true",
        gradient_accumulation_steps=15,
        lr_scheduler_type="constant",
        dataloader_num_workers=1,
        eval_accumulation_steps=2,
    )
    assert "apply_deepspeed is not applied: there is no GPU" in log
    assert "precision 16 is not applied" in log
    assert "training 21,472 of 21,472 weights" in log
    assert "3 steps of 15 conversations" in log
    assert "cut 40 tokens off 3 conversations" in log
    lines = curve(tmp_path / "full")
    assert {line["learning_rate"] for line in lines} == {2e-5}
    assert [line["step"] for line in lines] == [2, 3]  # at the end of an epoch, and of it all
    assert not any("eval_loss" in line for line in lines)

    train(
        tmp_path / "beside",
        **inputs,
        **LORA,
        num_train_epochs=1,
        per_device_train_batch_size=10,
        merge_lora_weights="false",
        evaluation_strategy="steps",
        evaluation_steps_interval=0.34,
        max_grad_norm=1e-9,
        warmup_steps=3,
        auto_find_batch_size="true",
    )
    base = (inputs["model_selector_output"] / "model.safetensors").read_bytes()
    assert (tmp_path / "beside" / "model.safetensors").read_bytes() == base
    assert (tmp_path / "beside" / "adapter" / "adapter_model.safetensors").is_file()
    lines = curve(tmp_path / "beside")
    assert [line["step"] for line in lines if "eval_loss" in line] == [1, 2, 3]
    assert next(line["learning_rate"] for line in lines if "loss" in line) < 0.01
    plan = json.loads((tmp_path / "beside" / "training.json").read_text())["preflight"]
    assert plan["steps"] == 3
    assert plan["tokens_per_s"] > 0
