"""Attention among packed conversations: each sees itself alone, and no mask of all against all is ever made.

A packed batch is one row, (1, tokens), in which conversations follow each other. Their lengths travel to the
attention function as a keyword argument of the model's forward. Where the device has flash attention for variable
lengths (PyTorch brings it), one kernel takes them all; elsewhere each conversation is a call of its own.
"""

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch.nn.functional import scaled_dot_product_attention

from chat_completion.common.device import Device

Attention = Literal["packed_varlen", "packed_each"]

LEAST_CAPABILITY = (8, 0)
"""Flash attention needs an Ampere GPU or a newer one."""


def choose_attention(
    device: Device, *, half: bool, dropout: float, deterministic: bool, kernels: bool = True
) -> tuple[Attention, str]:
    """The attention for packed conversations on this device, and why.

    Args:
        device: where the training runs.
        half: whether it computes in 16 bits: flash attention does nothing else.
        dropout: the model's own dropout of attention weights.
        deterministic: whether every run has to end with the same bits.
        kernels: whether fused kernels are wanted at all.
    """
    if not device.is_cuda:
        return "packed_each", "there is no GPU"
    if not kernels:
        return "packed_each", "MLOPS_KERNELS is off"
    if device.capability < LEAST_CAPABILITY:
        return "packed_each", "the GPU is older than Ampere"
    if not half:
        return "packed_each", "flash attention computes in 16 bits: set precision 16"
    if dropout:
        return "packed_each", "the model drops attention weights"
    if deterministic:
        return "packed_each", "enable_full_determinism: the backward pass of variable lengths adds in any order"
    return "packed_varlen", "flash attention for variable lengths"


def band(length: int, window: int, device: torch.device) -> torch.Tensor:
    """Which of a conversation's tokens (columns) each of them (rows) sees: itself and the `window - 1` before it."""
    position = torch.arange(length, device=device)
    distance = position[:, None] - position[None, :]
    return (distance >= 0) & (distance < window)


def packed_each(  # noqa: PLR0913 - as transformers calls it
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    lengths: Sequence[int],
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Attends each conversation by itself.

    Args:
        module: the attention layer.
        query: (1, heads, tokens, width); key and value may have fewer heads.
        key: as query.
        value: as query.
        attention_mask: must be None: the lengths say it all.
        lengths: of the conversations, in tokens; their sum is `tokens`.
        scaling: of the scores, before softmax.
        dropout: of the weights, in training.
        sliding_window: tokens that a token sees, itself included, or None for all before it.

    Returns:
        (1, tokens, heads, width), and no weights.
    """
    assert attention_mask is None
    pieces = []
    for q, k, v in zip(*(tensor.split(list(lengths), dim=2) for tensor in (query, key, value)), strict=True):
        length = q.shape[2]
        narrow = sliding_window is not None and length > sliding_window
        pieces.append(
            scaled_dot_product_attention(
                q,
                k,
                v,
                attn_mask=band(length, sliding_window or length, q.device) if narrow else None,
                dropout_p=dropout if module.training else 0.0,
                is_causal=not narrow,
                scale=scaling,
                enable_gqa=q.shape[1] != k.shape[1],
            )
        )
    return torch.cat(pieces, dim=2).transpose(1, 2).contiguous(), None


def packed_varlen(  # noqa: PLR0913 - as transformers calls it
    module: torch.nn.Module,  # noqa: ARG001 - as transformers calls it
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    lengths: Sequence[int],
    cu_seq_lens_q: torch.Tensor,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Attends all conversations in one kernel; arguments and result as in `packed_each`.

    Args:
        module: the attention layer.
        query: as there.
        key: as there.
        value: as there.
        attention_mask: as there.
        lengths: as there.
        cu_seq_lens_q: the conversations' starts and the last one's end, 32-bit, on the device.
        scaling: as there.
        sliding_window: as there.
    """
    assert attention_mask is None
    from torch.nn.attention.varlen import varlen_attn

    # Adapters in 32 bits leave their layers in 32 bits where nothing casts them.
    dtype = query.dtype if query.dtype in (torch.bfloat16, torch.float16) else torch.bfloat16
    q, k, v = (tensor.squeeze(0).transpose(0, 1).to(dtype) for tensor in (query, key, value))
    longest = max(lengths)
    before = -1 if sliding_window is None or longest <= sliding_window else sliding_window - 1
    output = varlen_attn(
        q,
        k,
        v,
        cu_seq_lens_q,
        cu_seq_lens_q,
        longest,
        longest,
        scale=scaling if scaling is not None else 1 / math.sqrt(q.shape[-1]),
        window_size=(before, 0),
        enable_gqa=q.shape[1] != k.shape[1],
    )
    return output.to(query.dtype).unsqueeze(0), None


def register() -> None:
    """Makes both known to transformers, under their names. Neither takes a mask, so none is built for them."""
    from transformers import AttentionInterface

    AttentionInterface.register("packed_each", packed_each)
    AttentionInterface.register("packed_varlen", packed_varlen)
