"""What the training step is asked for, and what that means for transformers' Trainer and for a checkpoint."""

import math
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from chat_completion.common.device import Device, choose_precision
from chat_completion.common.inputs import TrainingInputs
from chat_completion.common.model_folder import METADATA, read_json
from chat_completion.common.refusal import Refusal
from chat_completion.trainer.model import Lora
from chat_completion.trainer.zero import choose_deepspeed

CHECKPOINTS = "checkpoints"

FREE = (
    "dataloader_num_workers",
    "eval_accumulation_steps",
    "gradient_accumulation_steps",
    "logging_steps",
    "logging_strategy",
    "merge_lora_weights",
    "per_device_eval_batch_size",
    "per_device_train_batch_size",
    "resume_from_checkpoint",
    "save_total_limit",
)
"""Inputs that may differ between a run and the one that goes on from its checkpoint: they decide no weight,
or none but by the conversations of a step."""


@dataclass(frozen=True)
class Folders:
    """What the step reads, and where it writes."""

    preprocess_output: Path
    model_selector_output: Path
    pytorch_model_folder: Path


@dataclass(frozen=True)
class Inputs(TrainingInputs, Folders):
    """The step's inputs. Those of the registry's component that the pipeline refuses are absent."""


def processes() -> int:
    """How many processes train, on all nodes together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def conversations_per_step(inputs: Inputs) -> int:
    """Conversations that an optimiser step sees, over all processes."""
    return inputs.per_device_train_batch_size * inputs.gradient_accumulation_steps * processes()


def check_steps(inputs: Inputs, conversations: int) -> None:
    """Refuses to go on with steps of another size, as another number of processes would take them.

    Args:
        inputs: the step's inputs.
        conversations: in a step of the run that is gone on from.

    Raises:
        Refusal: with the inputs that would make the steps equal.
    """
    ours = conversations_per_step(inputs)
    if ours == conversations:
        return
    each, remainder = divmod(conversations, processes())
    batch = math.gcd(each, inputs.per_device_train_batch_size)
    if remainder:
        change = f"{conversations} conversations cannot be shared by {processes()} processes: use as many as before"
    else:
        change = f"set per_device_train_batch_size {batch} and gradient_accumulation_steps {each // batch}"
    raise Refusal(
        f"resume_from_checkpoint is true, but the checkpoint's steps were of {conversations} conversations, and with "
        f"{processes()} process(es) these would be of {ours}: {change}, or start anew with resume_from_checkpoint false"
    )


def evaluation_steps(inputs: Inputs, *, steps_per_epoch: int) -> int:
    """Steps between two evaluations: a share of an epoch where `evaluation_steps_interval` gives one."""
    if inputs.evaluation_steps_interval > 0:
        return max(1, round(inputs.evaluation_steps_interval * steps_per_epoch))
    return inputs.eval_steps


def training_arguments(inputs: Inputs, *, device: Device, rows: int) -> dict[str, Any]:
    """Keyword arguments for `transformers.TrainingArguments`.

    Args:
        inputs: the step's inputs.
        device: where the training runs.
        rows: conversations in the training split.
    """
    precision, precision_note = choose_precision(inputs.precision, device)
    deepspeed, deepspeed_note = choose_deepspeed(
        apply=inputs.apply_deepspeed,
        stage=inputs.deepspeed_stage,
        file=inputs.deepspeed,
        device=device,
        lora=inputs.apply_lora,
        processes=processes(),
    )
    if inputs.precision == 4 and (deepspeed or {}).get("zero_optimization", {}).get("stage") == 3:
        raise Refusal("precision 4 does not work with stage 3 of DeepSpeed: ZeRO does not spread weights of 4 bits")
    for note in filter(None, (precision_note, deepspeed_note)):
        say(f"note: {note}")
    strategy = "no" if inputs.evaluation_strategy == "disable" else inputs.evaluation_strategy
    between = evaluation_steps(inputs, steps_per_epoch=-(-rows // conversations_per_step(inputs)))
    return {
        "output_dir": str(inputs.pytorch_model_folder / CHECKPOINTS),
        "num_train_epochs": inputs.num_train_epochs,
        "max_steps": inputs.max_steps,
        "per_device_train_batch_size": inputs.per_device_train_batch_size,
        "per_device_eval_batch_size": inputs.per_device_eval_batch_size,
        # The data loader hands out whole optimiser steps, whose packed batches are as large as memory allows:
        # accumulation and the search for a batch size are settled there.
        "gradient_accumulation_steps": 1,
        "auto_find_batch_size": False,
        # One kernel for all weights, which makes no copies of them.
        "optim": "adamw_torch_fused" if inputs.optim == "adamw_torch" else inputs.optim,
        "learning_rate": inputs.learning_rate,
        "warmup_steps": inputs.warmup_steps,
        "weight_decay": inputs.weight_decay,
        "adam_beta1": inputs.adam_beta1,
        "adam_beta2": inputs.adam_beta2,
        "adam_epsilon": inputs.adam_epsilon,
        "eval_accumulation_steps": inputs.eval_accumulation_steps if inputs.eval_accumulation_steps > 0 else None,
        "lr_scheduler_type": inputs.lr_scheduler_type,
        "seed": inputs.seed,
        "full_determinism": inputs.enable_full_determinism,
        "dataloader_num_workers": inputs.dataloader_num_workers,
        "dataloader_pin_memory": device.is_cuda,
        "max_grad_norm": inputs.max_grad_norm,
        "eval_strategy": strategy,
        "eval_steps": between,
        "save_strategy": strategy,
        "save_steps": between,
        # Old checkpoints go when a new one is whole (checkpoints.rotate), not before.
        "save_total_limit": None,
        # Optimisers' states are only of use to a run that may be taken up again.
        "save_only_model": not inputs.resume_from_checkpoint and deepspeed is None,
        "restore_callback_states_from_checkpoint": inputs.apply_early_stopping,
        "load_best_model_at_end": strategy != "no",
        "metric_for_best_model": "loss",
        "greater_is_better": False,
        "logging_strategy": inputs.logging_strategy,
        "logging_steps": inputs.logging_steps,
        # It would show the mean of the losses before in place of one that is no number.
        "logging_nan_inf_filter": False,
        "bf16": precision == "bfloat16",
        "fp16": precision == "float16",
        "use_cpu": not device.is_cuda,
        "ddp_backend": None if device.is_cuda or "RANK" not in os.environ else "gloo",
        # Until the preflight has seen whether memory needs it.
        "activation_checkpointing": device.is_cuda,
        "activation_checkpointing_kwargs": {"use_reentrant": False},
        "deepspeed": deepspeed,
        # With adapters alone every trainable weight has a gradient: looking for others costs a pass per step.
        "ddp_find_unused_parameters": False,
        "prediction_loss_only": True,
        "remove_unused_columns": False,
        "report_to": [],
        "disable_tqdm": True,
    }


def adapters(inputs: Inputs) -> Lora | None:
    """The adapters that the inputs ask for."""
    if not inputs.apply_lora:
        return None
    return Lora(inputs.lora_r, inputs.lora_alpha, inputs.lora_dropout, inputs.merge_lora_weights)


def settings_of(inputs: Inputs) -> dict[str, Any]:
    """The inputs that are no folders."""
    return {name: value for name, value in asdict(inputs).items() if not isinstance(value, Path)}


def base_model(inputs: Inputs) -> dict[str, Any]:
    """Where the base model came from, as the import step has noted it."""
    path = inputs.model_selector_output / METADATA
    return read_json(path) if path.is_file() else {}


def made_by(inputs: Inputs, *, data: str | None, rows: int, tokens: int, partitioned: bool = False) -> dict[str, Any]:
    """What decides the weights that a training ends with: a checkpoint of anything else must not be gone on from.

    Args:
        inputs: the step's inputs.
        data: a hash of the tokenised conversations, from the preprocess step's report.
        rows: conversations in the training split.
        tokens: in them.
        partitioned: whether each process writes its own part of the optimiser's state, which no other number can read.
    """
    return {
        **{name: value for name, value in settings_of(inputs).items() if name not in FREE},
        "conversations_per_step": conversations_per_step(inputs),
        "data": data,
        "train_rows": rows,
        "train_tokens": tokens,
        "base_model": base_model(inputs),
        "processes": processes() if partitioned else None,
    }


def say(line: str) -> None:
    """Prints a line of the job's log, once for all processes."""
    if os.environ.get("RANK", "0") == "0":
        print(line, flush=True)
