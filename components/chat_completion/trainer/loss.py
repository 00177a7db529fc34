"""The loss on labelled tokens alone: no logits are computed for the others, and never all of them at a time."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn.functional import cross_entropy, linear
from torch.utils.checkpoint import checkpoint

MOST_VALUES = 1 << 24
"""Logits that are made at once, at most: 64 MiB of them in 32 bits. More are made piece by piece, and again for the
gradients: a hundredth of a step's work."""


def piece_loss(
    hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, bias: torch.Tensor | None
) -> torch.Tensor:
    """The summed loss of a few targets; in 32 bits, for a sum in 16 stands still where its terms are rounded away."""
    if torch.is_autocast_enabled(hidden.device.type):
        # Cast here, so that the gradients of all pieces meet in 32 bits where the weight is kept in 32.
        dtype = torch.get_autocast_dtype(hidden.device.type)
        hidden, weight = hidden.to(dtype), weight.to(dtype)
    logits = linear(hidden.to(weight.dtype), weight, bias).float()
    return cross_entropy(logits, targets, reduction="sum")


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
    rows = max(1, MOST_VALUES // weight.shape[0])
    if len(targets) <= rows:
        return piece_loss(hidden, weight, targets, bias)
    total = hidden.new_zeros((), dtype=torch.float32)
    for some, following in zip(hidden.split(rows), targets.split(rows), strict=True):
        total = total + checkpoint(
            piece_loss, some, weight, following, bias, use_reentrant=False, preserve_rng_state=False
        )
    return total


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
