"""What a training will do, said and tried out on the node before the first step.

The loss of packed conversations is compared with that of the model's own plain forward; the largest packed batch is
run once, forward and backward, and made smaller until it fits; its speed tells how long the training will take.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from chat_completion.attention import choose_attention
from chat_completion.batches import Conversation, pack
from chat_completion.device import Device
from chat_completion.kernels import fuse_layers, wanted
from chat_completion.lora import fuse_adapters
from chat_completion.loss import LabelledHead
from chat_completion.memory import GIB, SHARE, choose_tokens, estimate, shape_of
from chat_completion.recipe import Inputs, say
from chat_completion.refusal import Refusal
from chat_completion.tokens import IGNORED, TokenFile

MOST_TOKENS = 16_384
"""In a packed batch: beyond this a GPU is busy all the time, and more tokens only cost memory."""

TOLERANCE = {False: 1e-3, True: 5e-2}
"""Nats by which a token's mean loss may differ between the two ways, in 32 and in 16 bits."""

TRIED_TOKENS = 512
"""In a conversation whose loss is compared, at most; in the longest, behind the model's window."""


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
        found = [
            f"preflight: {self.conversations:,} conversations, {self.tokens:,} tokens, {self.steps:,} steps of "
            f"{self.conversations_per_step} conversations",
            f"preflight: packed batches of up to {self.tokens_per_batch:,} tokens; {batches}; {self.attention}"
            + ("; fused layers" if self.fused_layers else ""),
            f"preflight: {self.estimated_gib:.2f} of {self.device_gib:.0f} GiB are expected to be needed"
            + (f", {self.measured_gib:.2f} were" if self.measured_gib is not None else ""),
        ]
        if self.truncated_tokens:
            found.append(
                f"preflight: max_seq_length has cut {self.truncated_tokens:,} tokens off "
                f"{self.truncated_conversations:,} conversations"
            )
        if self.tokens_per_s is not None and self.hours is not None:
            found.append(
                f"preflight: {self.tokens_per_s:,.0f} tokens per second; about {self.hours:.2g} hours, validations "
                "not counted"
            )
        return found

    def params(self) -> dict[str, Any]:
        """The plan, for MLflow."""
        return {f"preflight_{name}": value for name, value in asdict(self).items()}


def steps_of(*, conversations: int, per_step: int, epochs: int, max_steps: int) -> int:
    """Optimiser steps of a whole training; `max_steps` wins over the epochs, as with transformers' Trainer."""
    return max_steps if max_steps > 0 else epochs * -(-conversations // per_step)


def shortest(tokens: TokenFile, *, count: int) -> list[Conversation]:
    """The shortest conversations that have something to learn."""
    rows = sorted(range(len(tokens)), key=lambda row: (tokens.lengths[row], row))
    found = []
    for row in rows[: 10 * count]:
        ids, labels = tokens.arrays(row)
        if (labels[1:TRIED_TOKENS] != IGNORED).any():
            found.append((ids[:TRIED_TOKENS], labels[:TRIED_TOKENS]))
        if len(found) == count:
            break
    return found


def beyond(tokens: TokenFile, *, window: int | None) -> list[Conversation]:
    """The longest conversation, cut behind its first tokens that see a window of those before; none where all see all.

    What precedes these tokens has no labels, so that they alone are compared.
    """
    row = max(range(len(tokens)), key=lambda row: tokens.lengths[row])
    if window is None or tokens.lengths[row] <= window:
        return []
    ids, labels = (array[: window + TRIED_TOKENS] for array in tokens.arrays(row))
    return [(ids, np.where(np.arange(len(ids)) < window, IGNORED, labels))]


def longest(tokens: TokenFile, *, count: int, most_tokens: int) -> list[Conversation]:
    """The longest conversations that make one packed batch: at least one, at most `count`."""
    rows = sorted(range(len(tokens)), key=lambda row: (-tokens.lengths[row], row))[:count]
    found: list[Conversation] = []
    filled = 0
    for row in rows:
        if found and filled + tokens.lengths[row] > most_tokens:
            continue
        found.append(tokens.arrays(row))
        filled += tokens.lengths[row]
    return found


def plain_loss(model: Any, conversations: Sequence[Conversation]) -> float:
    """The mean loss of labelled tokens, each conversation by itself, by the model's own forward."""
    total, count = 0.0, 0
    for ids, labels in conversations:
        following = torch.tensor(labels[1:], dtype=torch.long)
        inputs = torch.tensor(ids, dtype=torch.long).unsqueeze(0).to(model.device)
        logits = model(input_ids=inputs, use_cache=False).logits[0, :-1].float().cpu()
        total += float(torch.nn.functional.cross_entropy(logits, following, ignore_index=IGNORED, reduction="sum"))
        count += int((following != IGNORED).sum())
    return total / max(count, 1)


def packed_loss(model: Any, head: LabelledHead, conversations: Sequence[Conversation]) -> torch.Tensor:
    """The summed loss of one packed batch."""
    batch = pack(conversations)
    head.targets = batch.targets.to(model.device)
    inputs = {
        name: value.to(model.device) if isinstance(value, torch.Tensor) else value
        for name, value in batch.inputs.items()
    }
    loss: torch.Tensor = model(**inputs).logits
    return loss


def check_sameness(
    model: Any, head: LabelledHead, conversations: Sequence[Conversation], *, expected: float, half: bool
) -> None:
    """Compares the loss of a packed batch with `plain_loss` of the same conversations.

    Raises:
        Refusal: where they differ by more than rounding, or are no numbers.
    """
    if not math.isfinite(expected):
        raise Refusal(
            f"the base model's loss is {expected} before it is trained: its weights are broken"
            + (", or too large for 16 bits: set precision 32" if half else "")
        )
    count = sum(int((labels[1:] != IGNORED).sum()) for _, labels in conversations)
    with torch.no_grad():
        found = float(packed_loss(model, head, conversations)) / max(count, 1)
    if not abs(found - expected) <= TOLERANCE[half]:
        raise Refusal(
            f"a model of type '{model.config.model_type}' has a loss of {found:.4f} on packed conversations and "
            f"{expected:.4f} on the same ones alone: packing would change what is learnt. Set MLOPS_KERNELS=off in the "
            "environment if a fused kernel is to blame; otherwise this type cannot be trained here"
        )


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
                size = Size(least, True)
            else:
                raise Refusal(
                    f"a conversation of {least} tokens does not fit into the device's memory: lower max_seq_length, "
                    "set precision 16, or apply_lora true and precision 4, or spread the weights with deepspeed_stage 3"
                ) from error
        # Only now, when the error no longer holds on to the tensors of the failed run.
        torch.cuda.empty_cache()


def agree(size: Size, accelerator: Any) -> Size:
    """The smallest size that any process has found: all have to deal a step's conversations alike."""
    found = torch.tensor([[size.tokens, -int(size.recompute)]], device=accelerator.device)
    tokens, recompute = accelerator.gather(found).amin(dim=0).tolist()
    return Size(tokens, bool(recompute))


def truncated(report: Mapping[str, Any]) -> tuple[int, int]:
    """Conversations of the training split that were cut in preprocessing, and the tokens lost."""
    train = report.get("splits", {}).get("train", {})
    return int(train.get("truncated_rows", 0)), int(train.get("truncated_tokens", 0))


def prepare(trainer: Any, inputs: Inputs, *, device: Device, report: Mapping[str, Any]) -> Plan:
    """Chooses kernels and the size of packed batches, and tries them out; the trainer is changed accordingly.

    What DeepSpeed does to memory cannot be tried here, there the estimate counts; nor can weights that ZeRO-3 has
    spread be compared with anything.
    """
    model, head, arguments = trainer.model, trainer.head, trainer.args
    split = trainer.train_dataset.tokens
    half = arguments.bf16 or arguments.fp16
    zero = arguments.hf_deepspeed_config if arguments.deepspeed else None
    whole = zero is None or not zero.is_zero3()
    few = shortest(split, count=3) + beyond(split, window=getattr(model.config, "sliding_window", None))
    if whole:
        model.to(arguments.device)  # where DeepSpeed would bring it later
    model.eval()
    with torch.no_grad(), trainer.accelerator.autocast():
        expected = plain_loss(model, few) if whole else 0.0
    dropout = float(getattr(model.config, "attention_dropout", 0) or 0)
    attention, why = choose_attention(
        device, half=half, dropout=dropout, deterministic=inputs.enable_full_determinism, kernels=wanted()
    )
    fused, how = fuse_layers(model, device)
    # What ZeRO has spread is gathered for the layer's own forward alone.
    adapted = fuse_adapters(model) if zero is None and wanted() else 0
    model.set_attn_implementation(attention)
    if whole:
        with head.in_place(), trainer.accelerator.autocast():
            try:
                check_sameness(model, head, few, expected=expected, half=half)
            except (RuntimeError, Refusal) as error:
                if attention == "packed_each":
                    raise
                # A kernel that this device lacks, or that errs on it, is no reason not to train.
                attention, why = "packed_each", f"{attention} failed: {error}"
                model.set_attn_implementation(attention)
                check_sameness(model, head, few, expected=expected, half=half)
    say(f"attention: {attention} ({why}); fused layers: {'yes' if fused else 'no'} ({how}); fused adapters: {adapted}")
    memory = estimate(
        shape_of(model),
        half=half,
        fused_layers=fused,
        optim=inputs.optim,
        processes=arguments.world_size,
        zero_stage=int(zero.get_value("zero_optimization.stage") or 0) if zero else 0,
        offload=zero is not None and zero.is_offload(),
    )
    share = -(-trainer.conversations // arguments.world_size)
    longest_tokens = max(split.lengths)
    chosen = choose_tokens(
        memory, device.memory_bytes, longest=longest_tokens, most=min(MOST_TOKENS, share * longest_tokens)
    )
    if chosen is None:
        needed = longest_tokens * memory.per_token_twice
        raise Refusal(
            f"the training needs {memory.fixed / GIB:.1f} GiB for the model and {needed / GIB:.1f} for its longest "
            f"conversation of {longest_tokens} tokens; the device has {device.memory_bytes / GIB:.1f}. Set precision "
            "16, or apply_lora true and precision 4, or deepspeed_stage 3, or lower max_seq_length"
        )
    size, speed = Size(*chosen), Speed(0.0, 0, None)
    if zero is None:
        size, speed = fit(
            size,
            least=longest_tokens,
            run=lambda size: measure(
                trainer,
                longest(split, count=share, most_tokens=size.tokens),
                recompute=size.recompute,
                room_bytes=SHARE * device.memory_bytes - memory.optimiser,
            ),
        )
        size = agree(size, trainer.accelerator)
    arguments.activation_checkpointing = size.recompute
    trainer.most_tokens = size.tokens
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
        attention=attention,
        fused_layers=fused,
        device_gib=device.memory_bytes / GIB,
        estimated_gib=(memory.fixed + size.tokens * per_token) / GIB,
        measured_gib=(speed.peak_bytes + memory.optimiser) / GIB if speed.peak_bytes else None,
        tokens_per_s=per_s,
        hours=seen / per_s / 3600 if per_s else None,
    )
