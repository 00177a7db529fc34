"""Whether packed conversations have the loss that they have alone, with the kernels that the training will use.

Looked at before the first step: a kernel that errs here, or a model whose type does more to its logits than loss.py
knows of, would change what is learnt, and no later number would tell.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from chat_completion.common.device import Device
from chat_completion.common.refusal import Refusal
from chat_completion.data.tokens import IGNORED, TokenFile
from chat_completion.trainer.attention import Attention, choose_attention
from chat_completion.trainer.batches import Conversation, pack
from chat_completion.trainer.kernels import fuse_layers, kernels_enabled
from chat_completion.trainer.lora import fuse_adapters
from chat_completion.trainer.loss import LabelledHead
from chat_completion.trainer.recipe import say

TOLERANCE = {False: 1e-3, True: 5e-2}
"""Nats by which a token's mean loss may differ between the two ways, in 32 and in 16 bits."""

TRIED_TOKENS = 512
"""In a conversation whose loss is compared, at most; in the longest, behind the model's window."""


def shortest_conversations(tokens: TokenFile, *, count: int) -> list[Conversation]:
    """The shortest conversations that have something to learn."""
    rows = sorted(range(len(tokens)), key=lambda row: (tokens.lengths[row], row))
    conversations = []
    for row in rows[: 10 * count]:
        ids, labels = tokens.arrays(row)
        if (labels[1:TRIED_TOKENS] != IGNORED).any():
            conversations.append((ids[:TRIED_TOKENS], labels[:TRIED_TOKENS]))
        if len(conversations) == count:
            break
    return conversations


def long_conversations(tokens: TokenFile, *, window: int | None) -> list[Conversation]:
    """The longest conversation, cut behind its first tokens that see a window of those before; none where all see all.

    What precedes these tokens has no labels, so that they alone are compared.
    """
    row = max(range(len(tokens)), key=lambda row: tokens.lengths[row])
    if window is None or tokens.lengths[row] <= window:
        return []
    ids, labels = (array[: window + TRIED_TOKENS] for array in tokens.arrays(row))
    return [(ids, np.where(np.arange(len(ids)) < window, IGNORED, labels))]


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
        loss = float(packed_loss(model, head, conversations)) / max(count, 1)
    if not abs(loss - expected) <= TOLERANCE[half]:
        raise Refusal(
            f"a model of type '{model.config.model_type}' has a loss of {loss:.4f} on packed conversations and "
            f"{expected:.4f} on the same ones alone: packing would change what is learnt. Set MLOPS_KERNELS=off in the "
            "environment if a fused kernel is to blame; otherwise this type cannot be trained here"
        )


@dataclass(frozen=True)
class Kernels:
    """What computes attention, and whether norms, rotations and activations are fused."""

    attention: Attention
    fused_layers: bool


def settle_kernels(trainer: Any, *, device: Device, deterministic: bool) -> Kernels:
    """Gives the trainer's model the fastest kernels that leave its loss as it is.

    Weights that ZeRO-3 has spread cannot be compared with anything: there nothing is.

    Args:
        trainer: the training; its model is changed.
        device: where it runs.
        deterministic: whether every run has to end with the same bits.

    Raises:
        Refusal: where packing itself changes the loss, or the base model has none.
    """
    model, head, arguments = trainer.model, trainer.head, trainer.args
    split = trainer.train_dataset.tokens
    half = arguments.bf16 or arguments.fp16
    zero = arguments.hf_deepspeed_config if arguments.deepspeed else None
    whole = zero is None or not zero.is_zero3()
    few = shortest_conversations(split, count=3) + long_conversations(
        split, window=getattr(model.config, "sliding_window", None)
    )
    if whole:
        model.to(arguments.device)  # where DeepSpeed would bring it later
    model.eval()
    with torch.no_grad(), trainer.accelerator.autocast():
        expected = plain_loss(model, few) if whole else 0.0
    dropout = float(getattr(model.config, "attention_dropout", 0) or 0)
    attention, why = choose_attention(
        device, half=half, dropout=dropout, deterministic=deterministic, kernels=kernels_enabled()
    )
    fused, how = fuse_layers(model, device)
    # What ZeRO has spread is gathered for the layer's own forward alone.
    adapted = fuse_adapters(model) if zero is None and kernels_enabled() else 0
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
    return Kernels(attention, fused)
