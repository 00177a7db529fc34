"""Step 4: trains the model on the preprocessed conversations.

Started once per GPU by a launcher that sets RANK and WORLD_SIZE, or once without a launcher.
"""

import json
import os
import shutil
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from chat_completion import checkpoints
from chat_completion.arguments import parse
from chat_completion.device import (
    SMALL_MODEL_PARAMETERS,
    Device,
    choose_deepspeed,
    choose_precision,
    find_device,
)
from chat_completion.model import TRAINING, Lora, load_model, save_model, whole_weights
from chat_completion.model_folder import METADATA, read_json, write_json
from chat_completion.refusal import Refusal, run_step
from chat_completion.tokens import TokenFile
from chat_completion.tracking import Tracker

CHECKPOINTS = "checkpoints"
HISTORY = ("step", "loss", "eval_loss", "grad_norm", "learning_rate")

MOST_TOKENS = 16_384
"""In a packed batch: beyond this a GPU is busy all the time, and more tokens only cost memory."""

FREE = (
    "dataloader_num_workers",
    "eval_accumulation_steps",
    "logging_steps",
    "logging_strategy",
    "merge_lora_weights",
    "per_device_eval_batch_size",
    "resume_from_checkpoint",
    "save_total_limit",
)
"""Inputs that may differ between a run and the one that goes on from its checkpoint: they decide no weight."""


@dataclass(frozen=True)
class Inputs:
    """The registry component's inputs, with its defaults. Those that the pipeline refuses are absent."""

    preprocess_output: Path
    model_selector_output: Path
    pytorch_model_folder: Path
    apply_lora: bool = False
    merge_lora_weights: bool = True
    lora_alpha: int = 128
    lora_r: int = 8
    lora_dropout: float = 0.0
    num_train_epochs: int = 1
    max_steps: int = -1
    per_device_train_batch_size: int = 1
    per_device_eval_batch_size: int = 1
    auto_find_batch_size: bool = False
    optim: str = "adamw_torch"
    learning_rate: float = 2e-5
    warmup_steps: int = 0
    weight_decay: float = 0.0
    adam_beta1: float = 0.9
    adam_beta2: float = 0.999
    adam_epsilon: float = 1e-8
    gradient_accumulation_steps: int = 1
    eval_accumulation_steps: int = -1
    lr_scheduler_type: str = "linear"
    precision: int = 32
    seed: int = 42
    enable_full_determinism: bool = False
    dataloader_num_workers: int = 0
    ignore_mismatched_sizes: bool = False
    max_grad_norm: float = 1.0
    evaluation_strategy: str = "epoch"
    evaluation_steps_interval: float = 0.0
    eval_steps: int = 500
    logging_strategy: str = "steps"
    logging_steps: int = 10
    metric_for_best_model: str = "loss"
    resume_from_checkpoint: bool = False
    save_total_limit: int = -1
    apply_early_stopping: bool = False
    early_stopping_patience: int = 1
    early_stopping_threshold: float = 0.0
    apply_deepspeed: bool = False
    deepspeed: Path | None = None
    deepspeed_stage: int = 2


def conversations_per_step(inputs: Inputs) -> int:
    """Conversations that an optimiser step sees, over all processes."""
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    return inputs.per_device_train_batch_size * inputs.gradient_accumulation_steps * processes


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
        apply=inputs.apply_deepspeed, stage=inputs.deepspeed_stage, file=inputs.deepspeed, device=device
    )
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
        "optim": inputs.optim,
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
        "bf16": precision == "bfloat16",
        "fp16": precision == "float16",
        "use_cpu": not device.is_cuda,
        "ddp_backend": None if device.is_cuda or "RANK" not in os.environ else "gloo",
        "activation_checkpointing": device.is_cuda,
        "activation_checkpointing_kwargs": {"use_reentrant": False} if device.is_cuda else None,
        "deepspeed": deepspeed,
        # With adapters alone every trainable weight has a gradient: looking for others costs a pass per step.
        "ddp_find_unused_parameters": False,
        "prediction_loss_only": True,
        "remove_unused_columns": False,
        "report_to": [],
        "disable_tqdm": True,
    }


def say(line: str) -> None:
    """Prints a line of the job's log, once for all processes."""
    if os.environ.get("RANK", "0") == "0":
        print(line, flush=True)


def check_gpus(device: Device) -> None:
    """Refuses more processes on this node than it has GPUs."""
    asked = int(os.environ.get("LOCAL_WORLD_SIZE", os.environ.get("WORLD_SIZE", "1")))
    if device.is_cuda and asked > device.gpus:
        raise Refusal(f"number_of_gpu_to_use_finetuning is {asked}, but the node has {device.gpus} GPUs")


def made_by(inputs: Inputs, *, rows: int, tokens: int) -> dict[str, Any]:
    """What decides the weights that a training ends with: a checkpoint of anything else must not be gone on from."""
    settings = {name: value for name, value in asdict(inputs).items() if not isinstance(value, Path)}
    base = (
        read_json(inputs.model_selector_output / METADATA)
        if (inputs.model_selector_output / METADATA).is_file()
        else {}
    )
    return {
        **{name: value for name, value in settings.items() if name not in FREE},
        "conversations_per_step": conversations_per_step(inputs),
        "train_rows": rows,
        "train_tokens": tokens,
        "base_model": base,
    }


def checkpoint_to_go_on_from(inputs: Inputs, folder: Path, made: dict[str, Any]) -> checkpoints.Checkpoint | None:
    """The newest whole checkpoint of an interrupted run of this step; leftovers of others are deleted.

    Raises:
        Refusal: where it was made by other settings or data.
    """
    main_process = os.environ.get("RANK", "0") == "0"
    if not inputs.resume_from_checkpoint:
        if main_process:
            shutil.rmtree(folder, ignore_errors=True)
        return None
    found = checkpoints.newest(folder, resumable=True)
    if found is not None:
        checkpoints.check_same(found, made)
    if main_process and (broken := checkpoints.remove_broken(folder)):
        say(f"deleted {', '.join(broken)}: cut off while written")
    say(f"going on from {found.folder.name}" if found else "no checkpoint to go on from: starting at step 0")
    return found


def history(lines: list[dict[str, float]]) -> list[dict[str, float]]:
    """The curve, without what differs between two equal runs: their speed."""
    return [{name: line[name] for name in HISTORY if name in line} for line in lines if {*HISTORY[1:]} & {*line}]


def train(inputs: Inputs) -> None:
    """Trains and writes the model."""
    import torch
    from transformers import EarlyStoppingCallback, PrinterCallback, TrainingArguments, set_seed
    from transformers.utils.logging import disable_progress_bar

    from chat_completion.attention import choose_attention, register
    from chat_completion.batches import PackedDataset
    from chat_completion.loss import LabelledHead
    from chat_completion.training import CheckpointCallback, MetricsCallback, PackedTrainer

    disable_progress_bar()
    register()
    device = find_device()
    check_gpus(device)
    splits = {name: TokenFile(inputs.preprocess_output / f"{name}.arrow") for name in ("train", "validation")}
    rows, tokens = len(splits["train"]), sum(splits["train"].lengths)
    arguments = TrainingArguments(**training_arguments(inputs, device=device, rows=rows))
    made = made_by(inputs, rows=rows, tokens=tokens)
    found = checkpoint_to_go_on_from(inputs, Path(arguments.output_dir), made)
    main_process = arguments.process_index == 0
    tracker = Tracker(main_process=main_process)
    set_seed(inputs.seed)  # the Trainer does so as well, but only after the adapters have been drawn
    lora = None
    if inputs.apply_lora:
        lora = Lora(inputs.lora_r, inputs.lora_alpha, inputs.lora_dropout, inputs.merge_lora_weights)
    dtype, _ = choose_precision(inputs.precision, device)
    dropout = float(read_json(inputs.model_selector_output / "config.json").get("attention_dropout") or 0)
    attention, why = choose_attention(
        device, half=dtype != "float32", dropout=dropout, deterministic=inputs.enable_full_determinism
    )
    say(f"attention: {attention} ({why})")
    model = load_model(
        inputs.model_selector_output,
        lora=lora,
        dtype=dtype,
        attention=attention,
        ignore_mismatched_sizes=inputs.ignore_mismatched_sizes,
    )
    if not device.is_cuda and model.num_parameters() < SMALL_MODEL_PARAMETERS:
        torch.set_num_threads(1)
    trainable = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    settings = {name: value for name, value in asdict(inputs).items() if not isinstance(value, Path)}
    tracker.params({**settings, "trainable_parameters": trainable, "train_rows": rows})
    callbacks: list[Any] = [MetricsCallback(tracker, tokens_per_epoch=tokens)]
    if inputs.apply_early_stopping:
        callbacks.append(EarlyStoppingCallback(inputs.early_stopping_patience, inputs.early_stopping_threshold))
    head = LabelledHead(model)
    trainer = PackedTrainer(
        head=head,
        conversations=conversations_per_step(inputs),
        most_tokens=MOST_TOKENS,
        keep=inputs.save_total_limit if inputs.save_total_limit > 0 else None,
        made_by=made,
        model=model,
        args=arguments,
        train_dataset=PackedDataset(splits["train"]),
        eval_dataset=PackedDataset(splits["validation"]),
        callbacks=callbacks,
    )
    trainer.add_callback(CheckpointCallback(trainer, resumed=found, scheduled=inputs.resume_from_checkpoint))
    trainer.remove_callback(PrinterCallback)  # it would print every line a second time
    say(f"training {trainable:,} of {model.num_parameters():,} weights on {rows} rows")
    with head.in_place():
        trainer.train(resume_from_checkpoint=str(found.folder) if found else None)
    trainer.accelerator.wait_for_everyone()
    trained = trainer.accelerator.unwrap_model(trainer.model)
    zero = getattr(arguments, "hf_deepspeed_config", None)
    with whole_weights(trained, spread=zero is not None and zero.is_zero3()):
        if main_process:
            with checkpoints.room_for("the trained model", checkpoints=Path(arguments.output_dir)):
                save_model(trained, base=inputs.model_selector_output, output=inputs.pytorch_model_folder, lora=lora)
    if main_process:
        shutil.rmtree(arguments.output_dir, ignore_errors=True)
        write_json(
            inputs.pytorch_model_folder / TRAINING,
            {"base_model": made["base_model"], "settings": settings, "history": history(trainer.state.log_history)},
        )
    tracker.close()


def run(argv: list[str]) -> None:
    """Fine-tunes the model."""
    inputs = parse(Inputs, argv, description="Fine-tune the model.")
    print(json.dumps(asdict(inputs), default=str), file=sys.stderr)
    inputs.pytorch_model_folder.mkdir(parents=True, exist_ok=True)
    train(inputs)


if __name__ == "__main__":
    raise SystemExit(run_step("finetune", run))
