"""What the pipeline takes, decided from the inputs alone: no file is read and nothing heavy is imported."""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from chat_completion.common.inputs import TrainingInputs
from chat_completion.common.refusal import Refusal


@dataclass(frozen=True)
class PipelineInputs(TrainingInputs):
    """All inputs of the pipeline that a step may have to refuse, under their own names."""

    task_name: str = "ChatCompletion"
    num_nodes_finetune: int = 1
    number_of_gpu_to_use_finetuning: int = 1
    huggingface_id: str | None = None
    pytorch_model_path: Path | None = None
    mlflow_model_path: Path | None = None
    finetune_config_path: Path | None = None
    trust_remote_code: bool = False
    batch_size: int = 1000
    pad_to_max_length: bool = False
    max_seq_length: int = -1
    train_file_path: Path | None = None
    validation_file_path: Path | None = None
    test_file_path: Path | None = None
    train_mltable_path: Path | None = None
    validation_mltable_path: Path | None = None
    test_mltable_path: Path | None = None
    apply_ort: bool = False
    evaluation_config: Path | None = None
    evaluation_config_params: str | None = None


UNSUPPORTED = {
    "finetune_config_path": "the layers that LoRA adapts are chosen by the model's type",
    "trust_remote_code": "code that comes with a model is not run; take a model whose type transformers knows",
    "train_mltable_path": "give train_file_path, a jsonl file",
    "validation_mltable_path": "give validation_file_path, a jsonl file",
    "test_mltable_path": "give test_file_path, a jsonl file",
    "apply_ort": "ONNX Runtime training has ended; leave it 'false'",
    "evaluation_config": "the evaluation has no settings",
    "evaluation_config_params": "the evaluation has no settings",
}
"""Inputs that are taken for the interface's sake alone, and what to do instead."""

CHOICES = {
    "task_name": ("ChatCompletion",),
    "optim": ("adamw_torch", "adafactor"),
    "lr_scheduler_type": (
        "linear",
        "cosine",
        "cosine_with_restarts",
        "polynomial",
        "constant",
        "constant_with_warmup",
    ),
    "precision": (4, 16, 32),
    "deepspeed_stage": (2, 3),
    "evaluation_strategy": ("epoch", "steps", "disable"),
    "logging_strategy": ("epoch", "steps"),
    "metric_for_best_model": ("loss",),
}

AT_LEAST = {
    "num_nodes_finetune": 1,
    "number_of_gpu_to_use_finetuning": 1,
    "batch_size": 1,
    "lora_alpha": 1,
    "lora_r": 1,
    "num_train_epochs": 1,
    "per_device_train_batch_size": 1,
    "per_device_eval_batch_size": 1,
    "warmup_steps": 0,
    "weight_decay": 0,
    "gradient_accumulation_steps": 1,
    "seed": 0,
    "dataloader_num_workers": 0,
    "max_grad_norm": 0,
    "evaluation_steps_interval": 0,
    "eval_steps": 1,
    "logging_steps": 1,
    "early_stopping_patience": 1,
    "early_stopping_threshold": 0,
}

AT_MOST = {"seed": 2**32 - 1}
"""NumPy takes no larger one."""

MINUS_ONE_OR_MORE = {
    "max_seq_length": 2,
    "max_steps": 1,
    "eval_accumulation_steps": 1,
    "save_total_limit": 1,
}
"""Inputs for which -1 means 'none'; otherwise the smallest value."""

SHARES = ("lora_dropout", "adam_beta1", "adam_beta2")
ABOVE_ZERO = ("learning_rate", "adam_epsilon")


def check(problems: Iterable[str]) -> None:
    """Refuses inputs for all that was found wrong with them, if anything."""
    if lines := [*problems]:
        raise Refusal("\n  ".join([f"{len(lines)} input(s) refused", *lines]))


def refusals(inputs: TrainingInputs) -> Iterator[str]:
    """What is wrong with the inputs of the pipeline or of the training, one line each, each with the input's name."""
    values = {field.name: getattr(inputs, field.name) for field in fields(inputs)}
    yield from choices(values)
    yield from ranges(values)
    yield from combinations(inputs)
    if isinstance(inputs, PipelineInputs):
        yield from sources(inputs)


def with_limits(values: Mapping[str, Any], limits: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """Name, value and limit of each input that has one."""
    return ((name, values[name], limit) for name, limit in limits.items() if name in values)


def choices(values: Mapping[str, Any]) -> Iterator[str]:
    """Inputs that are not supported, or have a value that is not."""
    for name, value, instead in with_limits(values, UNSUPPORTED):
        if value not in (None, False):
            yield f"{name} is not supported: {instead}"
    for name, value, allowed in with_limits(values, CHOICES):
        if value not in allowed:
            yield f"{name} '{value}' is not supported: expected {' or '.join(map(str, allowed))}"


def ranges(values: Mapping[str, Any]) -> Iterator[str]:
    """Numbers outside of their range."""
    for name, value, least in with_limits(values, AT_LEAST):
        if not least <= value < math.inf:
            yield f"{name} is {value}: it must be at least {least}" + ("" if math.isfinite(value) else ", and finite")
    for name, value, most in with_limits(values, AT_MOST):
        if value > most:
            yield f"{name} is {value}: it must be at most {most}"
    for name, value, least in with_limits(values, MINUS_ONE_OR_MORE):
        if value != -1 and value < least:
            yield f"{name} is {value}: it must be at least {least}, or -1"
    for name in SHARES:
        if not 0 <= values[name] < 1:  # false for NaN as well
            yield f"{name} is {values[name]}: it must be from 0 to less than 1"
    for name in ABOVE_ZERO:
        if not 0 < values[name] < math.inf:
            yield f"{name} is {values[name]}: it must be more than 0, and finite"


def sources(inputs: PipelineInputs) -> Iterator[str]:
    """What is wrong with where the model and the chats come from."""
    models = [name for name in ("huggingface_id", "pytorch_model_path", "mlflow_model_path") if getattr(inputs, name)]
    if len(models) != 1:
        names = " and ".join(models) or "none of them"
        yield f"huggingface_id, pytorch_model_path, mlflow_model_path: exactly one must be given; got {names}"
    if inputs.train_file_path is None:
        yield "train_file_path is missing: give a jsonl file of chats"


def combinations(inputs: TrainingInputs) -> Iterator[str]:
    """What is wrong with inputs that are right one by one."""
    if inputs.apply_early_stopping and inputs.evaluation_strategy == "disable":
        yield "apply_early_stopping needs an evaluation to stop by: evaluation_strategy is 'disable'"
    if inputs.deepspeed is not None and not inputs.apply_deepspeed:
        yield "deepspeed is given, but apply_deepspeed is 'false': the file would be ignored"
    if inputs.precision == 4 and not inputs.apply_lora:
        yield "precision 4 needs apply_lora 'true': weights in 4 bits are not trained"
    if inputs.precision == 4 and inputs.apply_deepspeed and inputs.deepspeed_stage == 3:
        yield "precision 4 does not work with deepspeed_stage 3: ZeRO does not spread weights of 4 bits"
    if inputs.auto_find_batch_size and inputs.apply_deepspeed:
        yield "auto_find_batch_size does not work with apply_deepspeed: ZeRO's sizes are set once"
    if inputs.apply_deepspeed and inputs.optim == "adafactor":
        yield (
            "optim 'adafactor' does not work with apply_deepspeed: ZeRO lays all weights into one row, where Adafactor "
            "would learn otherwise; its state is small, so leave apply_deepspeed 'false'"
        )
