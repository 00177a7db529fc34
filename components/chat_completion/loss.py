"""The loss on labelled tokens alone: no logits are computed for the others, and never all of them at a time."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn.functional import linear, linear_cross_entropy

FUSED_VALUES = 1 << 24
"""Logits that are made at once, at most, before the loss is taken piece by piece: 64 MiB of them in 32 bits."""


def summed_loss(
    hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, *, bias: torch.Tensor | None
) -> torch.Tensor:
    """The negative log-likelihood of the targets, in nats, summed.

    Args:
        hidden: (targets, width), the model's last states where a target follows.
        weight: (vocabulary, width), of the model's head.
        targets: (targets,), token ids.
        bias: (vocabulary,), of the head, or None.
    """
    if not targets.numel():
        # Every process has to reach every weight, be it with a gradient of zero.
        return linear(hidden, weight, bias).sum()
    if torch.is_autocast_enabled(hidden.device.type):
        dtype = torch.get_autocast_dtype(hidden.device.type)
        hidden, weight = hidden.to(dtype), weight.to(dtype)
    hidden = hidden.to(weight.dtype)
    if targets.numel() * weight.shape[0] <= FUSED_VALUES:
        logits = linear(hidden, weight, bias).float()
        return torch.nn.functional.cross_entropy(logits, targets, reduction="sum")
    from torch.nn import LinearCrossEntropyOptions

    # PyTorch's own: logits of a chunk at a time, their gradients taken on the spot.
    return linear_cross_entropy(
        hidden, weight, targets, linear_bias=bias, reduction="sum", options=LinearCrossEntropyOptions()
    ).float()


class LabelledHead:
    """Takes the place of a causal model's head while it is trained: the summed loss instead of logits.

    The head stays where it is and is called by the model, so that wrappers around the model (DDP, ZeRO-3) find its
    weights as they expect them. The model has to be asked for the labelled positions alone (`logits_to_keep`).

    Attributes:
        targets: (targets,), what follows at the positions that the next forward keeps.
    """

    def __init__(self, model: Any) -> None:
        self._head = model.get_output_embeddings()
        self.targets: torch.Tensor | None = None

    def __call__(self, hidden: torch.Tensor) -> torch.Tensor:
        """The loss; `hidden` is (1, targets, width)."""
        assert self.targets is not None
        return summed_loss(hidden.squeeze(0), self._head.weight, self.targets, bias=self._head.bias)

    @contextmanager
    def in_place(self) -> Iterator["LabelledHead"]:
        """A context in which the model has this head."""
        self._head.forward = self
        try:
            yield self
        finally:
            del self._head.forward
