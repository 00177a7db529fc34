"""What a training will do, said and tried out on the node before the first step.

The largest packed batch is run, forward and backward, and made smaller until it fits; its speed tells how long the
training will take.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from chat_completion.common.device import Device
from chat_completion.common.refusal import Refusal
from chat_completion.data.tokens import TokenFile
from chat_completion.trainer.batches import Conversation
from chat_completion.trainer.memory import GIB, SHARE, Memory, choose_tokens, estimate, shape_of
from chat_completion.trainer.recipe import Inputs
from chat_completion.trainer.sameness import packed_loss, settle_kernels

MOST_TOKENS = 16_384
"""In a packed batch: beyond this a GPU is busy all the time, and more tokens only cost memory."""


@dataclass(frozen=True)
class Plan:
    """What is about to happen.

    Attributes:
        conversations: in the training split.
        tokens: in them.
        truncated_conversations: whose end was cut off in preprocessing, by max_seq_length.
        truncated_tokens: lost by that.
        conversations_per_step: that an optimiser step sees, over all processes.
        steps: optimiser steps.
        tokens_per_batch: in a packed batch, at most.
        recompute: whether activations are computed twice to save memory.
        attention: the attention function's name.
        fused_layers: whether norms, rotations and activations are fused kernels.
        device_gib: memory of the device.
        estimated_gib: that the largest batch was expected to need.
        measured_gib: that it needed; None where there is no GPU to ask.
        tokens_per_s: forward and backward of it, over all processes; None where it was not tried.
        hours: that the training will take at that speed.
    """

    conversations: int
    tokens: int
    truncated_conversations: int
    truncated_tokens: int
    conversations_per_step: int
    steps: int
    tokens_per_batch: int
    recompute: bool
    attention: str
    fused_layers: bool
    device_gib: float
    estimated_gib: float
    measured_gib: float | None = None
    tokens_per_s: float | None = None
    hours: float | None = None

    def lines(self) -> list[str]:
        """The plan, for the job's log."""
        batches = "activations are computed twice" if self.recompute else "no activation is computed twice"
        lines = [
            f"preflight: {self.conversations:,} conversations, {self.tokens:,} tokens, {self.steps:,} steps of "
            f"{self.conversations_per_step} conversations",
            f"preflight: packed batches of up to {self.tokens_per_batch:,} tokens; {batches}; {self.attention}"
            + ("; fused layers" if self.fused_layers else ""),
            f"preflight: {self.estimated_gib:.2f} of {self.device_gib:.0f} GiB are expected to be needed"
            + (f", {self.measured_gib:.2f} were" if self.measured_gib is not None else ""),
        ]
        if self.truncated_tokens:
            lines.append(
                f"preflight: max_seq_length has cut {self.truncated_tokens:,} tokens off "
                f"{self.truncated_conversations:,} conversations"
            )
        if self.tokens_per_s is not None and self.hours is not None:
            lines.append(
                f"preflight: {self.tokens_per_s:,.0f} tokens per second; about {self.hours:.2g} hours, validations "
                "not counted"
            )
        return lines

    def params(self) -> dict[str, Any]:
        """The plan, for MLflow."""
        return {f"preflight_{name}": value for name, value in asdict(self).items()}


def steps_of(*, conversations: int, per_step: int, epochs: int, max_steps: int) -> int:
    """Optimiser steps of a whole training; `max_steps` wins over the epochs, as with transformers' Trainer."""
    return max_steps if max_steps > 0 else epochs * -(-conversations // per_step)


def longest_conversations(tokens: TokenFile, *, count: int, most_tokens: int) -> list[Conversation]:
    """The longest conversations that make one packed batch: at least one, at most `count`."""
    rows = sorted(range(len(tokens)), key=lambda row: (-tokens.lengths[row], row))[:count]
    conversations: list[Conversation] = []
    filled = 0
    for row in rows:
        if conversations and filled + tokens.lengths[row] > most_tokens:
            continue
        conversations.append(tokens.arrays(row))
        filled += tokens.lengths[row]
    return conversations


@dataclass(frozen=True)
class Speed:
    """What a packed batch cost, forward and backward; `peak_bytes` is None on a CPU."""

    elapsed_s: float
    tokens: int
    peak_bytes: float | None


def measure(trainer: Any, conversations: Sequence[Conversation], *, recompute: bool, room_bytes: float) -> Speed:
    """Takes the gradients of a packed batch twice and throws them away; the second time counts.

    Raises:
        torch.OutOfMemoryError: where the device, or what the optimiser will leave of it, is too small.
    """
    model, device = trainer.model, trainer.args.device
    on_gpu = device.type == "cuda"
    model.train()
    if recompute:
        model.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
    if on_gpu:
        torch.cuda.reset_peak_memory_stats(device)
    elapsed_s = 0.0
    with torch.random.fork_rng(devices=[device] if on_gpu else []), trainer.head.in_place():
        for _ in range(2):
            started = time.monotonic()
            with trainer.accelerator.autocast():
                loss = packed_loss(model, trainer.head, conversations)
            loss.backward()
            model.zero_grad(set_to_none=True)
            if on_gpu:
                torch.cuda.synchronize(device)
            elapsed_s = time.monotonic() - started
    peak_bytes = float(torch.cuda.max_memory_allocated(device)) if on_gpu else None
    if peak_bytes is not None and peak_bytes > room_bytes:
        raise torch.OutOfMemoryError(f"{peak_bytes / GIB:.1f} GiB leave no room for the optimiser")
    return Speed(elapsed_s, sum(len(ids) for ids, _ in conversations), peak_bytes)


@dataclass(frozen=True)
class Size:
    """Tokens of a packed batch, at most, and whether its activations are computed twice."""

    tokens: int
    recompute: bool


def fit(size: Size, *, least: int, run: Callable[[Size], Speed]) -> tuple[Size, Speed]:
    """Halves a packed batch until a run with it does not end for want of memory; then it recomputes activations.

    Args:
        size: to begin with.
        least: the longest conversation; fewer tokens are not tried.
        run: what is tried.

    Returns:
        The size that fits, and what `run` gave.

    Raises:
        Refusal: where not even `least` fits.
    """
    while True:
        try:
            return size, run(size)
        except torch.OutOfMemoryError as error:
            if size.tokens > least:
                size = Size(max(least, size.tokens // 2), size.recompute)
            elif not size.recompute:
                size = Size(least, recompute=True)
            else:
                raise Refusal(
                    f"a conversation of {least} tokens does not fit into the device's memory: lower max_seq_length, "
                    "set precision 16, or apply_lora true and precision 4, or spread the weights with deepspeed_stage 3"
                ) from error
        # Only now, when the error no longer holds on to the tensors of the failed run.
        torch.cuda.empty_cache()


def agree(size: Size, accelerator: Any) -> Size:
    """The smallest size that any process has found: all have to deal a step's conversations alike."""
    sizes = torch.tensor([[size.tokens, -int(size.recompute)]], device=accelerator.device)
    tokens, recompute = accelerator.gather(sizes).amin(dim=0).tolist()
    return Size(tokens, bool(recompute))


def truncated(report: Mapping[str, Any]) -> tuple[int, int]:
    """Conversations of the training split that were cut in preprocessing, and the tokens lost."""
    train = report.get("splits", {}).get("train", {})
    return int(train.get("truncated_rows", 0)), int(train.get("truncated_tokens", 0))


def settle_size(trainer: Any, memory: Memory, *, device: Device, tried: bool) -> tuple[Size, Speed]:
    """Gives the trainer the largest packed batches that the device has room for.

    Args:
        trainer: the training, which is changed.
        memory: what it is expected to need.
        device: where it runs.
        tried: whether the batch is run; what DeepSpeed does to memory cannot be tried here, there the estimate counts.

    Returns:
        The size, and what the batch cost.

    Raises:
        Refusal: where the device is too small for the longest conversation.
    """
    split = trainer.train_dataset.tokens
    share = -(-trainer.conversations // trainer.args.world_size)
    least = max(split.lengths)
    chosen = choose_tokens(memory, device.memory_bytes, longest=least, most=min(MOST_TOKENS, share * least))
    if chosen is None:
        needed = least * memory.per_token_twice
        raise Refusal(
            f"the training needs {memory.fixed / GIB:.1f} GiB for the model and {needed / GIB:.1f} for its longest "
            f"conversation of {least} tokens; the device has {device.memory_bytes / GIB:.1f}. Set precision 16, or "
            "apply_lora true and precision 4, or deepspeed_stage 3, or lower max_seq_length"
        )
    size, speed = Size(*chosen), Speed(0.0, 0, None)
    if tried:
        size, speed = fit(
            size,
            least=least,
            run=lambda size: measure(
                trainer,
                longest_conversations(split, count=share, most_tokens=size.tokens),
                recompute=size.recompute,
                room_bytes=SHARE * device.memory_bytes - memory.optimiser,
            ),
        )
        size = agree(size, trainer.accelerator)
    trainer.args.activation_checkpointing = size.recompute
    trainer.most_tokens = size.tokens
    return size, speed


def prepare(trainer: Any, inputs: Inputs, *, device: Device, report: Mapping[str, Any]) -> Plan:
    """Settles kernels and the size of packed batches, and tells what the training will do."""
    arguments, split = trainer.args, trainer.train_dataset.tokens
    zero = arguments.hf_deepspeed_config if arguments.deepspeed else None
    kernels = settle_kernels(trainer, device=device, deterministic=inputs.enable_full_determinism)
    memory = estimate(
        shape_of(trainer.model),
        half=arguments.bf16 or arguments.fp16,
        fused_layers=kernels.fused_layers,
        optim=inputs.optim,
        processes=arguments.world_size,
        zero_stage=int(zero.get_value("zero_optimization.stage") or 0) if zero else 0,
        offload=zero is not None and zero.is_offload(),
    )
    size, speed = settle_size(trainer, memory, device=device, tried=zero is None)
    per_token = memory.per_token_twice if size.recompute else memory.per_token
    steps = steps_of(
        conversations=len(split),
        per_step=trainer.conversations,
        epochs=inputs.num_train_epochs,
        max_steps=inputs.max_steps,
    )
    per_s = speed.tokens / speed.elapsed_s * arguments.world_size if speed.elapsed_s else None
    seen = steps * trainer.conversations * sum(split.lengths) / len(split)
    cut, lost = truncated(report)
    return Plan(
        conversations=len(split),
        tokens=sum(split.lengths),
        truncated_conversations=cut,
        truncated_tokens=lost,
        conversations_per_step=trainer.conversations,
        steps=steps,
        tokens_per_batch=size.tokens,
        recompute=size.recompute,
        attention=kernels.attention,
        fused_layers=kernels.fused_layers,
        device_gib=device.memory_bytes / GIB,
        estimated_gib=(memory.fixed + size.tokens * per_token) / GIB,
        measured_gib=(speed.peak_bytes + memory.optimiser) / GIB if speed.peak_bytes else None,
        tokens_per_s=per_s,
        hours=seen / per_s / 3600 if per_s else None,
    )
