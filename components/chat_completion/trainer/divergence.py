"""A training whose loss is no number any more: seen, and stopped before it writes another checkpoint."""

import math
from typing import Any

import torch

from chat_completion.common.refusal import Refusal
from chat_completion.trainer import checkpoints

NEVER = 2**31 - 1

MOST_SKIPPED = 40
"""Steps that float16's scaler skips in a row: it halves its scale at each, so that 2 to the 16th is 2 to the -24th by
then, and what is still infinite is so for another reason."""


class Divergence:
    """The first optimiser step whose loss or gradients were not finite.

    It stays on the device, and processes are asked together: to look at it at every step would make a GPU wait.
    """

    def __init__(self, device: torch.device) -> None:
        self._first = torch.tensor(NEVER, device=device)
        self._skipped = torch.tensor(0, device=device)

    def see(self, value: torch.Tensor | float, *, step: int, scaled: bool = False) -> None:
        """Looks at a step's loss, or at the norm of its gradients.

        Args:
            value: the one or the other.
            step: the step's number.
            scaled: whether float16's scaler skips a step with such a value, and goes on with a smaller scale.
        """
        finite = torch.as_tensor(value, device=self._first.device).isfinite()
        if scaled:
            self._skipped = torch.where(finite, 0, self._skipped + 1)
            finite = self._skipped < MOST_SKIPPED
        self._first = torch.where(finite, self._first, self._first.clamp(max=step))

    def check(self, trainer: Any, *, eval_loss: float = 0.0) -> None:
        """Stops a training that has diverged; every process has to ask.

        Raises:
            Refusal: naming the step, what to lower, and the newest checkpoint.
        """
        step = int(trainer.accelerator.gather(self._first).min())
        if step == NEVER and math.isfinite(eval_loss):
            return
        arguments = trainer.args
        cause = f"step {step} has a loss or gradients that are not finite numbers"
        if step == NEVER:
            cause = f"the validation loss after step {trainer.state.global_step} is not a finite number"
        change = f"lower learning_rate ({arguments.learning_rate:g}) or raise warmup_steps ({arguments.warmup_steps:g})"
        if arguments.fp16 or arguments.bf16:
            change += ", or set precision 32"
        last = checkpoints.newest(trainer.checkpoints)
        fallback = f"'{last.folder.name}' in the output is kept" if last else "there is no checkpoint"
        raise Refusal(f"{cause}: {change}; {fallback}")
