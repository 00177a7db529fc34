"""What transformers' Trainer is given: tokenised conversations, batches of them, and a place for its numbers."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import TrainerCallback

from chat_completion.tokens import IGNORED, Example, TokenFile
from chat_completion.tracking import Tracker


class TokenDataset(torch.utils.data.Dataset[Example]):  # type: ignore[misc]
    """A split, as PyTorch's data loaders want it."""

    def __init__(self, tokens: TokenFile) -> None:
        self.tokens = tokens

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, index: int) -> Example:
        example: Example = self.tokens[index]
        return example


@dataclass(frozen=True)
class Collator:
    """Puts examples into one batch, padded on the right to the longest of them.

    The padding token is often the end token as well, so labels come from the example and never from a comparison
    with it.

    Attributes:
        pad_id: fills `input_ids`; masked from attention and from the loss.
        pad_to: length of every batch, or None for the longest example's.
    """

    pad_id: int
    pad_to: int | None = None

    def __call__(self, examples: Sequence[Example]) -> dict[str, torch.Tensor]:
        """The batch, each tensor of shape (examples, width)."""
        width = self.pad_to or max(len(example.input_ids) for example in examples)
        shape = (len(examples), width)
        batch = {
            "input_ids": torch.full(shape, self.pad_id),
            "labels": torch.full(shape, IGNORED),
            "attention_mask": torch.zeros(shape, dtype=torch.long),
        }
        for row, example in enumerate(examples):
            length = len(example.input_ids)
            batch["input_ids"][row, :length] = torch.tensor(example.input_ids)
            batch["labels"][row, :length] = torch.tensor(example.labels)
            batch["attention_mask"][row, :length] = 1
        return batch


NAMES = {"loss": "train_loss", "eval_loss": "eval_loss", "learning_rate": "learning_rate", "grad_norm": "grad_norm"}
"""The Trainer's names of metrics, and the names under which they are logged."""


# The Trainer calls these methods with all of their arguments, by name.
# ruff: noqa: ARG002


class MetricsCallback(TrainerCallback):  # type: ignore[misc]
    """Sends the Trainer's numbers to MLflow under this pipeline's names, and measures the speed.

    Attributes:
        tracker: where the numbers go.
        tokens_per_epoch: real tokens, padding not counted, over all processes.
    """

    def __init__(self, tracker: Tracker, *, tokens_per_epoch: int) -> None:
        self.tracker = tracker
        self.tokens_per_epoch = tokens_per_epoch
        self._started_s = 0.0
        self._started_epoch = 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Starts the clock."""
        self._started_s = time.monotonic()
        self._started_epoch = state.epoch or 0.0

    def on_log(
        self, args: Any, state: Any, control: Any, logs: Mapping[str, float] | None = None, **kwargs: Any
    ) -> None:
        """Logs one line of the Trainer's."""
        values = {NAMES[name]: float(value) for name, value in (logs or {}).items() if name in NAMES}
        if values and state.is_world_process_zero:
            print(f"step {state.global_step}: " + " ".join(f"{k}={v:.4g}" for k, v in values.items()), flush=True)
            self.tracker.metrics(values, step=state.global_step)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Logs how long it took, and how fast it was."""
        elapsed_s = time.monotonic() - self._started_s
        tokens = ((state.epoch or 0.0) - self._started_epoch) * self.tokens_per_epoch
        values = {"train_runtime_s": elapsed_s, "tokens_per_second": tokens / elapsed_s if elapsed_s else 0.0}
        if state.is_world_process_zero:
            print(" ".join(f"{name}={value:.4g}" for name, value in values.items()), flush=True)
            self.tracker.metrics(values, step=state.global_step)
