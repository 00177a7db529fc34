from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest

from chat_completion.common.limits import (
    ABOVE_ZERO,
    AT_LEAST,
    CHOICES,
    MINUS_ONE_OR_MORE,
    SHARES,
    UNSUPPORTED,
    PipelineInputs,
    refusals,
)
from tests.unit.components.conftest import COMPONENTS, REPO, run_step, split

GOOD = PipelineInputs(huggingface_id=REPO, train_file_path=Path("train.jsonl"))

REFUSED = [
    ("finetune_config_path", Path("x.json")),
    ("trust_remote_code", True),
    ("train_mltable_path", Path("x")),
    ("validation_mltable_path", Path("x")),
    ("test_mltable_path", Path("x")),
    ("apply_ort", True),
    ("evaluation_config", Path("x")),
    ("evaluation_config_params", "{}"),
    ("metric_for_best_model", "f1"),
    ("metric_for_best_model", "exact"),
    ("task_name", "TextClassification"),
    ("optim", "sgd"),
    ("precision", 8),
    ("deepspeed_stage", 1),
    ("seed", 2**32),
    ("max_seq_length", 1),
    ("max_seq_length", 0),
    ("max_steps", -2),
    ("lora_r", 0),
    ("lora_dropout", 1.0),
    ("learning_rate", 0.0),
    ("learning_rate", float("nan")),
    ("adam_beta2", 1.0),
    ("num_train_epochs", 0),
    ("early_stopping_threshold", -0.1),
    ("max_grad_norm", float("inf")),
    ("save_total_limit", 0),
    ("lr_scheduler_type", "wsd"),
    ("evaluation_strategy", "best"),
    ("logging_strategy", "no"),
    ("deepspeed", Path("zero.json")),
    ("pytorch_model_path", Path("second-model")),
    ("train_file_path", None),
    ("huggingface_id", None),
]


def test_the_defaults_pass() -> None:
    assert list(refusals(GOOD)) == []


def test_what_the_tutorial_sets_passes() -> None:
    inputs = dataclasses.replace(
        GOOD,
        num_train_epochs=3,
        learning_rate=5e-6,
        lr_scheduler_type="cosine",
        apply_lora=True,
        apply_deepspeed=True,
        deepspeed_stage=2,
        precision=16,
        save_total_limit=1,
    )
    assert list(refusals(inputs)) == []


@pytest.mark.parametrize(("name", "value"), REFUSED)
def test_refused_by_name(name: str, value: object) -> None:
    changes = {name: value}
    problems = list(refusals(dataclasses.replace(GOOD, **changes)))  # type: ignore[arg-type]
    assert len(problems) == 1
    assert name in problems[0]


def test_a_number_without_end_is_told_apart_from_one_that_is_too_small() -> None:
    assert [*refusals(dataclasses.replace(GOOD, weight_decay=float("inf")))] == [
        "weight_decay is inf: it must be at least 0, and finite"
    ]


ANY = {
    "apply_lora",
    "merge_lora_weights",
    "pad_to_max_length",
    "auto_find_batch_size",
    "enable_full_determinism",
    "ignore_mismatched_sizes",
    "resume_from_checkpoint",
    "apply_early_stopping",
    "apply_deepspeed",
    "huggingface_id",
    "pytorch_model_path",
    "mlflow_model_path",
    "train_file_path",
    "validation_file_path",
    "test_file_path",
    "deepspeed",
}
"""Inputs of which every value is taken: switches, and what only the node can look at."""


def test_every_input_is_looked_at() -> None:
    judged = {*UNSUPPORTED, *CHOICES, *AT_LEAST, *MINUS_ONE_OR_MORE, *SHARES, *ABOVE_ZERO}
    assert judged | ANY == {field.name for field in dataclasses.fields(PipelineInputs)}
    assert not judged & ANY


def test_every_unsupported_input_is_tried_above() -> None:
    assert set(UNSUPPORTED) <= {name for name, _ in REFUSED}


def test_combinations() -> None:
    stop = dataclasses.replace(GOOD, apply_early_stopping=True, evaluation_strategy="disable")
    assert "apply_early_stopping" in next(refusals(stop))
    find = dataclasses.replace(GOOD, auto_find_batch_size=True, apply_deepspeed=True)
    assert "auto_find_batch_size" in next(refusals(find))
    sharded = dataclasses.replace(GOOD, optim="adafactor", apply_deepspeed=True)
    for stage in (2, 3):
        assert "adafactor" in next(refusals(dataclasses.replace(sharded, deepspeed_stage=stage)))
    four = dataclasses.replace(GOOD, precision=4, apply_lora=True, apply_deepspeed=True)
    assert not list(refusals(four))
    assert "precision 4 needs apply_lora" in next(refusals(dataclasses.replace(four, apply_lora=False)))
    assert "deepspeed_stage 3" in next(refusals(dataclasses.replace(four, deepspeed_stage=3)))


def test_a_training_that_no_pipeline_has_validated_is_refused_alike(tmp_path: Path) -> None:
    folders = dict.fromkeys(("preprocess_output", "model_selector_output", "pytorch_model_folder"), tmp_path / "no")
    done = run_step("finetune", **folders, num_train_epochs=0, optim="sgd")
    assert done.returncode == 2
    assert "\n  optim 'sgd' is not supported: expected adamw_torch or adafactor" in done.stderr
    assert "\n  num_train_epochs is 0: it must be at least 1" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "no").exists()


def test_the_step_names_all_that_is_wrong(tmp_path: Path) -> None:
    done = run_step(
        "validation",
        huggingface_id=REPO,
        train_file_path=tmp_path / "absent.jsonl",
        apply_ort="true",
        trust_remote_code="true",
        validation_info=tmp_path / "info.json",
    )
    assert done.returncode == 2
    for name in ("apply_ort", "trust_remote_code", "train_file_path"):
        assert f"\n  {name}" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "info.json").exists()


def test_the_step_writes_what_it_checked(tmp_path: Path) -> None:
    done = run_step(
        "validation", huggingface_id=REPO, train_file_path=split("train_sft"), validation_info=tmp_path / "info.json"
    )
    assert done.returncode == 0, done.stderr
    assert '"lora_r": 8' in (tmp_path / "info.json").read_text()


def test_validation_imports_nothing_heavy() -> None:
    program = (
        "import sys, chat_completion.validation; print(sorted({'torch', 'transformers', 'mlflow'} & {*sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=COMPONENTS, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
