"""transformers' Trainer with conversations packed, and a place for its numbers."""

import contextlib
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import DistributedType, broadcast_object_list
from transformers import Trainer, TrainerCallback
from transformers.trainer_utils import EvalLoopOutput

from chat_completion.chat_model import rotation_border
from chat_completion.common.tracking import Tracker
from chat_completion.trainer import checkpoints
from chat_completion.trainer.batches import PackedDataset, StepSampler, pack_step
from chat_completion.trainer.checkpoints import Checkpoint, Schedule
from chat_completion.trainer.divergence import Divergence
from chat_completion.trainer.loss import LabelledHead


class StepLoader(torch.utils.data.DataLoader[Any]):  # type: ignore[misc]
    """A data loader whose order the Trainer can choose by epoch. It is dealt to processes already."""

    def set_epoch(self, epoch: int) -> None:
        """Chooses the order of an epoch."""
        self.batch_sampler.set_epoch(epoch)


# The Trainer calls these methods with all of their arguments.
# ruff: noqa: ARG002


class PackedTrainer(Trainer):  # type: ignore[misc]
    """Takes optimiser steps over packed conversations.

    An item of its data loader is a whole optimiser step: as many packed batches as memory asks for, whose gradients
    add up to those of the mean loss over all labelled tokens of the step, on all processes. So the Trainer's own
    `gradient_accumulation_steps` has to be 1.
    """

    def __init__(
        self,
        *,
        head: LabelledHead,
        conversations: int,
        most_tokens: int,
        keep: int | None = None,
        made_by: Mapping[str, Any] | None = None,
        **arguments: Any,
    ) -> None:
        """Prepares the training.

        Args:
            head: the model's loss.
            conversations: in an optimiser step, over all processes.
            most_tokens: in a packed batch, at most.
            keep: checkpoints to keep, or None for all.
            made_by: what decides the result, written into every checkpoint.
            arguments: the Trainer's; the datasets are `PackedDataset`s.
        """
        # Without a launcher the Trainer would split every packed batch between all GPUs, through its conversations.
        arguments["args"]._n_gpu = min(1, arguments["args"].n_gpu)
        super().__init__(**arguments)
        self.checkpoints = Path(self.args.output_dir)
        self.divergence = Divergence(self.args.device)
        self.keep = keep
        self.made_by = made_by or {}
        self.ended = False
        self.head = head
        self.conversations = conversations
        self.most_tokens = most_tokens
        self.loss_is_scaled_for_ga = True

    def _loader(self, dataset: PackedDataset, *, conversations: int, seed: int | None) -> StepLoader:
        sampler = StepSampler(
            dataset.tokens.lengths,
            conversations=conversations,
            most_tokens=self.most_tokens,
            process=self.args.process_index,
            processes=self.args.world_size,
            seed=seed,
            separate_above=rotation_border(self.model.config),
        )
        return StepLoader(
            dataset,
            batch_sampler=sampler,
            collate_fn=pack_step,
            num_workers=self.args.dataloader_num_workers,
            pin_memory=self.args.dataloader_pin_memory,
        )

    def get_train_dataloader(self) -> StepLoader:
        """The steps of an epoch, in an order that the seed decides."""
        return self._loader(self.train_dataset, conversations=self.conversations, seed=self.args.seed)

    def get_eval_dataloader(self, eval_dataset: Any = None) -> StepLoader:
        """The validation split, in its own order."""
        batch = self.args.per_device_eval_batch_size * self.args.world_size
        return self._loader(eval_dataset or self.eval_dataset, conversations=batch, seed=None)

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> torch.Tensor:
        """Labelled tokens of a step, over all processes."""
        own = sum(len(packed["targets"]) for step in batch_samples for packed in step["packed"])
        count = torch.tensor(own, device=device)
        return self.accelerator.gather(count).sum() if self.args.world_size > 1 else count

    def compute_loss(
        self,
        model: Any,
        inputs: Any,
        return_outputs: bool = False,  # noqa: FBT001, FBT002 - the Trainer's own signature
        num_items_in_batch: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """The loss of one packed batch: its share of the step's mean, or its sum where no count is given.

        Processes' gradients are averaged, so each counts for as many processes as there are.
        """
        self.head.targets = inputs["targets"]
        summed: torch.Tensor = model(**inputs["inputs"]).logits
        if num_items_in_batch is None:
            return summed
        return summed * (self.accelerator.num_processes / num_items_in_batch.clamp(min=1))

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: torch.Tensor | None = None) -> torch.Tensor:
        """The gradients of one optimiser step, batch by batch; processes exchange them after the last.

        Returns:
            The step's loss.
        """
        batches = inputs["packed"]
        loss = torch.zeros((), device=self.args.device)
        for index, batch in enumerate(batches, start=1):
            last = index == len(batches)
            # DeepSpeed asks this flag when to exchange; DDP has a context for it.
            self.accelerator.gradient_state._set_sync_gradients(last)
            waits = last or self.accelerator.distributed_type == DistributedType.DEEPSPEED
            with contextlib.nullcontext() if waits else self.accelerator.no_sync(model):
                loss += super().training_step(model, batch, num_items_in_batch)
        self.divergence.see(loss, step=self.state.global_step + 1)
        return loss

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        """The norm of a step's gradients."""
        norm = super()._get_grad_norm(model, grad_norm=grad_norm)
        if norm is not None:
            self.divergence.see(norm, step=self.state.global_step + 1, scaled=self.args.fp16)
        return norm

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Logs a line, unless the training has diverged."""
        self.divergence.check(self, eval_loss=logs.get("eval_loss", 0.0))
        super().log(logs, start_time)

    def evaluation_loop(
        self,
        dataloader: StepLoader,
        description: str,
        prediction_loss_only: bool | None = None,  # noqa: FBT001 - the Trainer's own signature
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        """The mean loss over all labelled tokens of a split, whatever the batches and processes."""
        model = self._wrap_model(self.model, training=False)
        model.eval()
        total = torch.zeros(2, dtype=torch.float64, device=self.args.device)
        waiting = torch.zeros((), device=self.args.device)
        for index, step in enumerate(dataloader, start=1):
            for batch in self._prepare_inputs(step)["packed"]:
                with torch.no_grad(), self.compute_loss_context_manager():
                    waiting += self.compute_loss(model, batch)
                total[1] += len(batch["targets"])
            if index % (self.args.eval_accumulation_steps or 1) == 0:
                total[0] += waiting.double()
                waiting.zero_()
        total[0] += waiting.double()
        summed, count = self.accelerator.reduce(total, "sum").tolist()
        metrics = {f"{metric_key_prefix}_loss": summed / max(count, 1)}
        return EvalLoopOutput(None, None, metrics, len(dataloader.dataset))

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Writes a checkpoint, seals it, and only then deletes what is beyond the limit."""
        self.divergence.check(self)
        folder = self.checkpoints / f"checkpoint-{self.state.global_step}"
        unlogged = float(self.accelerator.gather(self._tr_loss).mean())
        what = f"the checkpoint at step {self.state.global_step}"
        with checkpoints.room_for(what, checkpoints=self.checkpoints, unfinished=folder):
            if self.args.should_save:
                checkpoints.unseal(folder)
            super()._save_checkpoint(model, trial)
            self.accelerator.wait_for_everyone()
            if self.args.should_save:
                checkpoints.seal(
                    folder,
                    resumable=not self.args.save_only_model,
                    made_by=self.made_by,
                    unlogged_loss=unlogged,
                    last_logged=self._globalstep_last_logged,
                    ended=self.control.should_training_stop,
                )
        if self.args.should_save:
            checkpoints.rotate(self.checkpoints, keep=self.keep, best=self.state.best_model_checkpoint)

    def restore_log(self, checkpoint: Checkpoint) -> None:
        """Takes up the losses that the run before had not logged yet, so that its curve goes on as it was."""
        self._tr_loss += checkpoint.unlogged_loss
        self._globalstep_last_logged = checkpoint.last_logged

    def _run_epoch(self, **arguments: Any) -> None:
        """One pass over the data; none where the checkpoint that is gone on from was the last of its training."""
        if self.ended:
            self.control.should_training_stop = True
            return
        super()._run_epoch(**arguments)

    def floating_point_ops(self, inputs: Any) -> int:
        """Not counted here: the Trainer would count padding."""
        return 0


NAMES = {"loss": "train_loss", "eval_loss": "eval_loss", "learning_rate": "learning_rate", "grad_norm": "grad_norm"}
"""The Trainer's names of metrics, and the names under which they are logged."""


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


LOOK_EVERY = 10
"""Steps between two questions whether a checkpoint is due, where several processes have to agree on it."""


class CheckpointCallback(TrainerCallback):  # type: ignore[misc]
    """Asks for a checkpoint when the clock says so, besides those that belong to a validation."""

    def __init__(self, trainer: PackedTrainer, *, resumed: Checkpoint | None, scheduled: bool) -> None:
        self._trainer = trainer
        self._resumed = resumed
        self._schedule = Schedule() if scheduled else None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Takes up the training where the checkpoint's run left it: its log, and whether it was over."""
        if self._resumed is not None:
            self._trainer.restore_log(self._resumed)
            self._trainer.ended = self._resumed.ended

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Decides whether to write one now; the first process's clock counts."""
        if self._schedule is None:
            return
        # The validation at an epoch's end, or at the last step, writes one of its own, of the same name.
        at_end = control.should_training_stop or state.global_step % len(kwargs["train_dataloader"]) == 0
        if args.save_strategy == "epoch" and at_end:
            return
        due = [self._schedule.due]
        if args.world_size > 1:
            if state.global_step % LOOK_EVERY:
                return
            broadcast_object_list(due)
        control.should_save = control.should_save or due[0]

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Starts the clock anew."""
        if self._schedule is not None:
            self._schedule.done()
