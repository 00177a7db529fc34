"""Step 4: trains the model on the preprocessed conversations.

Started once per GPU by a launcher that sets RANK and WORLD_SIZE, or once without a launcher.
"""

import contextlib
import json
import os
import shutil
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from chat_completion.arguments import parse
from chat_completion.device import (
    SMALL_MODEL_PARAMETERS,
    Device,
    choose_deepspeed,
    choose_precision,
    find_device,
)
from chat_completion.model_folder import METADATA, copy_model, read_json, write_json
from chat_completion.refusal import Refusal, run_step
from chat_completion.token_cache import REPORT
from chat_completion.tokens import TokenFile
from chat_completion.tracking import Tracker

CHECKPOINTS = "checkpoints"
ADAPTER = "adapter"
TRAINING = "training.json"

LORA_TARGETS = {"phi3": ["qkv_proj", "o_proj", "gate_up_proj", "down_proj"]}
"""Layers that get an adapter, by model type. PEFT knows none for Phi-3; others get all their linear layers."""


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
        print(f"note: {note}", flush=True)
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    per_step = inputs.per_device_train_batch_size * inputs.gradient_accumulation_steps * processes
    strategy = "no" if inputs.evaluation_strategy == "disable" else inputs.evaluation_strategy
    return {
        "output_dir": str(inputs.pytorch_model_folder / CHECKPOINTS),
        "num_train_epochs": inputs.num_train_epochs,
        "max_steps": inputs.max_steps,
        "per_device_train_batch_size": inputs.per_device_train_batch_size,
        "per_device_eval_batch_size": inputs.per_device_eval_batch_size,
        "auto_find_batch_size": inputs.auto_find_batch_size,
        "optim": inputs.optim,
        "learning_rate": inputs.learning_rate,
        "warmup_steps": inputs.warmup_steps,
        "weight_decay": inputs.weight_decay,
        "adam_beta1": inputs.adam_beta1,
        "adam_beta2": inputs.adam_beta2,
        "adam_epsilon": inputs.adam_epsilon,
        "gradient_accumulation_steps": inputs.gradient_accumulation_steps,
        "eval_accumulation_steps": inputs.eval_accumulation_steps if inputs.eval_accumulation_steps > 0 else None,
        "lr_scheduler_type": inputs.lr_scheduler_type,
        "seed": inputs.seed,
        "full_determinism": inputs.enable_full_determinism,
        "dataloader_num_workers": inputs.dataloader_num_workers,
        "dataloader_pin_memory": device.is_cuda,
        "max_grad_norm": inputs.max_grad_norm,
        "eval_strategy": strategy,
        "eval_steps": evaluation_steps(inputs, steps_per_epoch=-(-rows // per_step)),
        "save_strategy": strategy,
        "save_steps": evaluation_steps(inputs, steps_per_epoch=-(-rows // per_step)),
        "save_total_limit": inputs.save_total_limit if inputs.save_total_limit > 0 else None,
        # Optimisers' states are only of use to a run that may be taken up again.
        "save_only_model": not inputs.resume_from_checkpoint and deepspeed is None,
        "load_best_model_at_end": strategy != "no",
        "metric_for_best_model": "loss",
        "greater_is_better": False,
        "logging_strategy": inputs.logging_strategy,
        "logging_steps": inputs.logging_steps,
        "bf16": precision == "bfloat16",
        "fp16": precision == "float16",
        "use_cpu": not device.is_cuda,
        "gradient_checkpointing": device.is_cuda,
        "gradient_checkpointing_kwargs": {"use_reentrant": False} if device.is_cuda else None,
        "deepspeed": deepspeed,
        # With adapters alone every trainable weight has a gradient: looking for others costs a pass per step.
        "ddp_find_unused_parameters": False,
        "prediction_loss_only": True,
        "remove_unused_columns": False,
        "report_to": [],
        "disable_tqdm": True,
    }


def load_model(inputs: Inputs, *, device: Device) -> Any:
    """The base model, ready to be trained: in full, or with LoRA adapters around it."""
    import torch
    from transformers import AutoModelForCausalLM

    precision, _ = choose_precision(inputs.precision, device)
    # Without adapters the weights themselves are trained, and those are kept in 32 bits.
    dtype = getattr(torch, precision) if inputs.apply_lora else torch.float32
    model = AutoModelForCausalLM.from_pretrained(
        inputs.model_selector_output,
        dtype=dtype,
        ignore_mismatched_sizes=inputs.ignore_mismatched_sizes,
        trust_remote_code=False,
        local_files_only=True,
    )
    # A cache is of no use in training, and with it the model would take other paths through its masks.
    model.config.use_cache = False
    if not device.is_cuda and model.num_parameters() < SMALL_MODEL_PARAMETERS:
        torch.set_num_threads(1)
    if not inputs.apply_lora:
        return model
    from peft import LoraConfig, get_peft_model

    if device.is_cuda:
        model.enable_input_require_grads()  # otherwise gradient checkpointing finds nothing to train
    adapters = LoraConfig(
        task_type="CAUSAL_LM",
        r=inputs.lora_r,
        lora_alpha=inputs.lora_alpha,
        lora_dropout=inputs.lora_dropout,
        target_modules=LORA_TARGETS.get(model.config.model_type, "all-linear"),
    )
    return get_peft_model(model, adapters)


def save_model(model: Any, inputs: Inputs) -> None:
    """Writes the trained model as a Hugging Face folder, in the precision that the base model has.

    Without `merge_lora_weights` the base stays as it is and the adapter goes into a folder beside it.
    """
    import torch

    output = inputs.pytorch_model_folder
    copy_model(inputs.model_selector_output, inputs.model_selector_output, output)
    if inputs.apply_lora and not inputs.merge_lora_weights:
        model.save_pretrained(output / ADAPTER, safe_serialization=True)
        return
    if inputs.apply_lora:
        model = model.merge_and_unload()
    stored = read_json(inputs.model_selector_output / "config.json")
    dtype = getattr(torch, str(stored.get("dtype") or stored.get("torch_dtype") or "float32"))
    model.config.use_cache = True
    for path in output.glob("model*.safetensors*"):
        path.unlink()
    model.to(dtype).save_pretrained(output)


def whole_weights(model: Any, *, spread: bool) -> contextlib.AbstractContextManager[Any]:
    """A context in which the first process holds all of the model's weights; every process has to enter it.

    Args:
        model: the trained model.
        spread: whether ZeRO-3 has spread the weights over the processes. Not run on the machines that this
            project is tested on: they have no GPU.
    """
    if not spread:
        return contextlib.nullcontext()
    import deepspeed  # type: ignore[import-not-found]

    gathered: contextlib.AbstractContextManager[Any] = deepspeed.zero.GatheredParameters(
        list(model.parameters()), modifier_rank=0
    )
    return gathered


def latest_checkpoint(folder: Path) -> str | None:
    """The newest checkpoint that an interrupted run of this step left in its output."""
    from transformers.trainer_utils import get_last_checkpoint

    return get_last_checkpoint(str(folder)) if folder.is_dir() else None


def check_gpus(device: Device) -> None:
    """Refuses more processes on this node than it has GPUs."""
    asked = int(os.environ.get("LOCAL_WORLD_SIZE", os.environ.get("WORLD_SIZE", "1")))
    if device.is_cuda and asked > device.gpus:
        raise Refusal(f"number_of_gpu_to_use_finetuning is {asked}, but the node has {device.gpus} GPUs")


def train(inputs: Inputs) -> None:
    """Trains and writes the model."""
    from transformers import EarlyStoppingCallback, PrinterCallback, Trainer, TrainingArguments, set_seed
    from transformers.utils.logging import disable_progress_bar

    from chat_completion.training import Collator, MetricsCallback, TokenDataset

    disable_progress_bar()
    device = find_device()
    check_gpus(device)
    report = read_json(inputs.preprocess_output / REPORT)
    splits = {name: TokenFile(inputs.preprocess_output / f"{name}.arrow") for name in ("train", "validation")}
    arguments = TrainingArguments(**training_arguments(inputs, device=device, rows=len(splits["train"])))
    main_process = arguments.process_index == 0
    tracker = Tracker(main_process=main_process)
    set_seed(inputs.seed)  # the Trainer does so as well, but only after the adapters have been drawn
    model = load_model(inputs, device=device)
    trainable = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    settings = {name: value for name, value in asdict(inputs).items() if not isinstance(value, Path)}
    tracker.params({**settings, "trainable_parameters": trainable, "train_rows": len(splits["train"])})
    callbacks: list[Any] = [MetricsCallback(tracker, tokens_per_epoch=sum(splits["train"].lengths))]
    if inputs.apply_early_stopping:
        callbacks.append(EarlyStoppingCallback(inputs.early_stopping_patience, inputs.early_stopping_threshold))
    trainer = Trainer(
        model=model,
        args=arguments,
        train_dataset=TokenDataset(splits["train"]),
        eval_dataset=TokenDataset(splits["validation"]),
        data_collator=Collator(pad_id=pad_id(model), pad_to=report["pad_to"]),
        callbacks=callbacks,
    )
    trainer.remove_callback(PrinterCallback)  # it would print every line a second time
    print(f"training {trainable:,} of {model.num_parameters():,} weights on {len(splits['train'])} rows", flush=True)
    checkpoint = latest_checkpoint(Path(arguments.output_dir)) if inputs.resume_from_checkpoint else None
    if inputs.resume_from_checkpoint:
        print(f"going on from {checkpoint}" if checkpoint else "no checkpoint to go on from: starting at step 0")
    trainer.train(resume_from_checkpoint=checkpoint)
    trainer.accelerator.wait_for_everyone()
    trained = trainer.accelerator.unwrap_model(trainer.model)
    zero = getattr(arguments, "hf_deepspeed_config", None)
    with whole_weights(trained, spread=zero is not None and zero.is_zero3()):
        if main_process:
            save_model(trained, inputs)
    if main_process:
        shutil.rmtree(arguments.output_dir, ignore_errors=True)
        base = read_json(inputs.model_selector_output / METADATA)
        write_json(inputs.pytorch_model_folder / TRAINING, {"base_model": base, "settings": settings})
    tracker.close()


def pad_id(model: Any) -> int:
    """A token id to fill batches with; it is masked, so any id does when the model names none."""
    for value in (model.generation_config.pad_token_id, model.config.pad_token_id, model.config.eos_token_id):
        if isinstance(value, int):
            return value
    return 0


def run(argv: list[str]) -> None:
    """Fine-tunes the model."""
    inputs = parse(Inputs, argv, description="Fine-tune the model.")
    print(json.dumps(asdict(inputs), default=str), file=sys.stderr)
    inputs.pytorch_model_folder.mkdir(parents=True, exist_ok=True)
    train(inputs)


if __name__ == "__main__":
    raise SystemExit(run_step("finetune", run))
