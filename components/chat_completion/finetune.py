"""Step 4: trains the model on the preprocessed conversations.

Started once per GPU by a launcher that sets RANK and WORLD_SIZE, or once without a launcher.
"""

import json
import os
import shutil
import sys
import warnings
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

from chat_completion.common.arguments import parse
from chat_completion.common.device import Device, choose_precision, find_device, settle_on_cpu
from chat_completion.common.limits import check, refusals
from chat_completion.common.model_folder import read_json, write_json
from chat_completion.common.refusal import Refusal, run_step
from chat_completion.common.tracking import Tracker
from chat_completion.data.token_cache import REPORT
from chat_completion.data.tokens import TokenFile
from chat_completion.trainer import checkpoints
from chat_completion.trainer.model import TRAINING, load_model, save_model, whole_weights
from chat_completion.trainer.recipe import (
    Inputs,
    adapters,
    base_model,
    check_steps,
    conversations_per_step,
    made_by,
    processes,
    say,
    settings_of,
    training_arguments,
)
from chat_completion.trainer.zero import agreeing

HISTORY = ("step", "loss", "eval_loss", "grad_norm", "learning_rate")


def check_gpus(device: Device) -> None:
    """Refuses more processes on this node than it has GPUs; says so where they are fewer and nobody chose it."""
    asked = int(os.environ.get("LOCAL_WORLD_SIZE", os.environ.get("WORLD_SIZE", "1")))
    if device.is_cuda and asked > device.gpus:
        raise Refusal(f"number_of_gpu_to_use_finetuning is {asked}, but the node has {device.gpus} GPUs")
    if device.gpus > 1 and "WORLD_SIZE" not in os.environ:
        say(f"note: one of {device.gpus} GPUs is used: a process trains on one, and no launcher has started others")


def checkpoint_to_go_on_from(inputs: Inputs, folder: Path, provenance: dict[str, Any]) -> checkpoints.Checkpoint | None:
    """The newest whole checkpoint of an interrupted run of this step; leftovers of others are deleted.

    Raises:
        Refusal: where it was made by other settings or data, or in steps of another size.
    """
    main_process = os.environ.get("RANK", "0") == "0"
    if not inputs.resume_from_checkpoint:
        if main_process:
            shutil.rmtree(folder, ignore_errors=True)
        return None
    checkpoint = checkpoints.newest(folder, resumable=True)
    if checkpoint is not None:
        check_steps(inputs, checkpoint.made_by["conversations_per_step"])
        checkpoints.check_same(checkpoint, provenance)
        if (before := checkpoint.processes) != processes():
            say(
                f"note: {before} process(es) have written it and {processes()} go on: the steps stay the same, but "
                "where lora_dropout is more than 0, other values are dropped"
            )
    if main_process and (broken := checkpoints.remove_broken(folder)):
        say(f"deleted {', '.join(broken)}: cut off while written")
    say(f"going on from {checkpoint.folder.name}" if checkpoint else "no checkpoint to go on from: starting at step 0")
    return checkpoint


def history(lines: list[dict[str, float]]) -> list[dict[str, float]]:
    """The curve, without what differs between two equal runs: their speed."""
    return [{name: line[name] for name in HISTORY if name in line} for line in lines if {*HISTORY[1:]} & {*line}]


def make_trainer(inputs: Inputs, *, device: Device, tracker: Tracker, report: dict[str, Any]) -> Any:
    """The model and the data, in a trainer that has not begun."""
    from transformers import EarlyStoppingCallback, PrinterCallback, TrainingArguments, set_seed

    from chat_completion.trainer.batches import PackedDataset
    from chat_completion.trainer.loss import LabelledHead
    from chat_completion.trainer.training import MetricsCallback, PackedTrainer

    splits = {name: TokenFile(inputs.preprocess_output / f"{name}.arrow") for name in ("train", "validation")}
    rows, tokens = len(splits["train"]), sum(splits["train"].lengths)
    arguments = TrainingArguments(**training_arguments(inputs, device=device, rows=rows))
    set_seed(inputs.seed)  # the Trainer does so as well, but only after the adapters have been drawn
    model = load_model(
        inputs.model_selector_output,
        lora=adapters(inputs),
        dtype=choose_precision(inputs.precision, device)[0],
        ignore_mismatched_sizes=inputs.ignore_mismatched_sizes,
        four_bits=inputs.precision == 4,
        adapters_in_32_bits=arguments.deepspeed is None,
    )
    if not device.is_cuda:
        settle_on_cpu(model.num_parameters())
    callbacks: list[Any] = [MetricsCallback(tracker, tokens_per_epoch=tokens)]
    if inputs.apply_early_stopping:
        callbacks.append(EarlyStoppingCallback(inputs.early_stopping_patience, inputs.early_stopping_threshold))
    trainer = PackedTrainer(
        head=LabelledHead(model),
        conversations=conversations_per_step(inputs),
        most_tokens=max(splits["train"].lengths),
        keep=inputs.save_total_limit if inputs.save_total_limit > 0 else None,
        made_by=made_by(
            inputs, data=report.get("content"), rows=rows, tokens=tokens, partitioned=bool(arguments.deepspeed)
        ),
        model=model,
        args=arguments,
        train_dataset=PackedDataset(splits["train"]),
        eval_dataset=PackedDataset(splits["validation"]),
        callbacks=callbacks,
    )
    trainer.remove_callback(PrinterCallback)  # it would print every line a second time
    return trainer


def train(inputs: Inputs, tracker: Tracker) -> None:
    """Trains and writes the model."""
    from transformers.utils.logging import disable_progress_bar

    from chat_completion.trainer.attention import register
    from chat_completion.trainer.preflight import prepare
    from chat_completion.trainer.training import CheckpointCallback

    disable_progress_bar()
    # Each library tells the other, in every run, what it will rename in its next version.
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"transformers|peft|accelerate")
    register()
    device = find_device()
    check_gpus(device)
    report = read_json(inputs.preprocess_output / REPORT)
    if report.get("pad_to"):
        say("note: pad_to_max_length changes nothing: conversations are packed, and nothing is learnt from padding")
    trainer = make_trainer(inputs, device=device, tracker=tracker, report=report)
    output = Path(trainer.args.output_dir)
    checkpoint = checkpoint_to_go_on_from(inputs, output, trainer.made_by)
    trainable = sum(weight.numel() for weight in trainer.model.parameters() if weight.requires_grad)
    plan = prepare(trainer, inputs, device=device, report=report)
    for line in plan.lines():
        say(line)
    tracker.params({**settings_of(inputs), "trainable_parameters": trainable, "train_rows": plan.conversations})
    tracker.params(plan.params())
    frozen = ", the frozen layers in 4 bits," if inputs.precision == 4 else ""
    say(f"training {trainable:,} of {trainer.model.num_parameters():,} weights{frozen} on {plan.conversations} rows")
    trainer.add_callback(CheckpointCallback(trainer, resumed=checkpoint, scheduled=inputs.resume_from_checkpoint))
    with trainer.head.in_place(), agreeing(inputs.deepspeed):
        trainer.train(resume_from_checkpoint=str(checkpoint.folder) if checkpoint else None)
    write_results(trainer, inputs, plan=asdict(plan))


def write_results(trainer: Any, inputs: Inputs, *, plan: dict[str, Any]) -> None:
    """Writes the trained model and what it was made from; only then the checkpoints go."""
    trainer.accelerator.wait_for_everyone()
    main_process = trainer.args.process_index == 0
    output = Path(trainer.args.output_dir)
    trained = trainer.accelerator.unwrap_model(trainer.model)
    zero = getattr(trainer.args, "hf_deepspeed_config", None)
    with whole_weights(trained, partitioned=zero is not None and zero.is_zero3()):
        if main_process:
            with checkpoints.room_for("the trained model", checkpoints=output):
                save_model(
                    trained,
                    base=inputs.model_selector_output,
                    output=inputs.pytorch_model_folder,
                    lora=adapters(inputs),
                )
    if main_process:
        written = {
            "base_model": base_model(inputs),
            "settings": settings_of(inputs),
            "preflight": plan,
            "history": history(trainer.state.log_history),
        }
        write_json(inputs.pytorch_model_folder / TRAINING, written)
        shutil.rmtree(output, ignore_errors=True)


def run(argv: list[str]) -> None:
    """Fine-tunes the model."""
    inputs = parse(Inputs, argv, description="Fine-tune the model.")
    check(refusals(inputs))
    print(json.dumps(asdict(inputs), default=str), file=sys.stderr)
    inputs.pytorch_model_folder.mkdir(parents=True, exist_ok=True)
    with closing(Tracker(main_process=os.environ.get("RANK", "0") == "0")) as tracker:
        train(inputs, tracker)


if __name__ == "__main__":
    raise SystemExit(run_step("finetune", run))
