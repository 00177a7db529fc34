"""A loss that is no number: what is stopped, and what is not."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from chat_completion.common.refusal import Refusal
from chat_completion.trainer import checkpoints
from chat_completion.trainer.divergence import MOST_SKIPPED
from tests.unit.components.tiny import finish, model, start, start_ranks, write_inputs

pytestmark = [pytest.mark.slow]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return write_inputs(tmp_path_factory.mktemp("inputs"))


def test_a_training_that_diverges_is_stopped_and_keeps_its_checkpoint(inputs: dict[str, Any], tmp_path: Path) -> None:
    out = tmp_path / "out"
    # The learning rate rises from 0, so the weights are themselves in step 1 and beyond all bounds after step 2.
    process = start(
        out,
        env={"MLOPS_CHECKPOINT_S": "0"},
        **inputs,
        learning_rate=1e30,
        warmup_steps=4,
        logging_steps=5,
        resume_from_checkpoint="true",
        evaluation_strategy="disable",
    )
    log = finish(process, out, code=2)
    last = checkpoints.newest(out / "checkpoints")
    assert last
    assert last.step == 2
    errors = [line for line in log.splitlines() if line.startswith("finetune: error:")]
    assert len(errors) == 1
    assert "step 3 has a loss or gradients that are not finite numbers" in errors[0]
    assert "lower learning_rate (1e+30) or raise warmup_steps (4); 'checkpoint-2' in the output is kept" in errors[0]
    assert "Traceback" not in log
    assert not (out / "training.json").exists()


def slow_to_send() -> None:
    """From now on this process's metrics reach a file of their number, late."""
    import time

    from chat_completion.common import tracking

    def send(self: Any) -> None:
        time.sleep(1.0)
        sent = [*iter(self._queue.get, None)]
        Path(os.environ["MLFLOW_TRACKING_URI"]).write_text(str(len(sent)))

    tracking.Tracker._send = send  # type: ignore[method-assign]


def test_what_led_to_it_reaches_mlflow(inputs: dict[str, Any], tmp_path: Path) -> None:
    out, sent = tmp_path / "out", tmp_path / "sent"
    process = start(
        out,
        env={"MLFLOW_RUN_ID": "1", "MLFLOW_TRACKING_URI": str(sent)},
        before=slow_to_send,
        **inputs,
        learning_rate=1e30,
        warmup_steps=4,
        logging_steps=1,
        evaluation_strategy="disable",
    )
    finish(process, out, code=2)
    assert sent.read_text() == "4"  # parameters twice, and the first two steps


def test_the_last_step_counts_as_well(inputs: dict[str, Any], tmp_path: Path) -> None:
    """Nothing is logged or saved after it, but the summary at the end."""
    out = tmp_path / "out"
    settings: dict[str, Any] = {"learning_rate": 1e30, "max_steps": 2, "evaluation_strategy": "disable"}
    log = finish(start(out, **inputs, **settings), out, code=2)
    assert "step 2 has a loss or gradients that are not finite numbers" in log
    assert "there is no checkpoint" in log


def without_a_loss() -> None:
    """From now on the second process's losses are no numbers."""
    from chat_completion.trainer.training import PackedTrainer

    if os.environ["RANK"] == "1":
        summed = PackedTrainer.compute_loss

        def broken(*arguments: Any, **named: Any) -> Any:
            return summed(*arguments, **named) * float("nan")

        PackedTrainer.compute_loss = broken  # type: ignore[method-assign]


def test_processes_stop_together(inputs: dict[str, Any], tmp_path: Path) -> None:
    started = start_ranks(tmp_path / "out", processes=2, before=without_a_loss, **inputs, evaluation_strategy="disable")
    logs = [finish(process, tmp_path / "out", code=2) for process in started]
    assert logs[-1].count("finetune: error: step 1 has a loss or gradients that are not finite numbers") == 2


def test_a_base_model_without_a_loss_is_refused(inputs: dict[str, Any], tmp_path: Path) -> None:
    import torch

    broken = model()
    torch.nn.init.constant_(broken.model.norm.weight, float("nan"))
    broken.save_pretrained(tmp_path / "base")
    inputs = inputs | {"model_selector_output": tmp_path / "base"}
    log = finish(start(tmp_path / "out", **inputs), tmp_path / "out", code=2)
    assert "the base model's loss is nan before it is trained: its weights are broken" in log


@pytest.fixture
def trainer(inputs: dict[str, Any], tmp_path: Path) -> Any:
    """One that finds two GPUs and no launcher."""
    from transformers import TrainingArguments

    from chat_completion.data.tokens import TokenFile
    from chat_completion.trainer.batches import PackedDataset
    from chat_completion.trainer.loss import LabelledHead
    from chat_completion.trainer.training import PackedTrainer

    base = model()
    arguments = TrainingArguments(
        output_dir=str(tmp_path / "checkpoints"),
        use_cpu=True,
        report_to=[],
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=False,
    )
    arguments._n_gpu = 2
    return PackedTrainer(
        head=LabelledHead(base),
        conversations=4,
        most_tokens=100,
        model=base,
        args=arguments,
        train_dataset=PackedDataset(TokenFile(inputs["preprocess_output"] / "train.arrow")),
    )


def test_a_step_that_float16s_scaler_skips_is_no_divergence(trainer: Any) -> None:
    import torch

    infinite = torch.tensor(float("inf"))
    trainer.args.fp16 = True
    assert trainer._get_grad_norm(trainer.model, infinite) == infinite
    trainer.log({"loss": 1.0})
    trainer.args.fp16 = False
    trainer._get_grad_norm(trainer.model, infinite)
    with pytest.raises(Refusal, match="step 1 has a loss or gradients"):
        trainer.log({"loss": 1.0})


def test_a_scaler_that_skips_every_step_is_one(trainer: Any) -> None:
    """Otherwise such a training goes on to its end and learns nothing."""
    import torch

    trainer.args.fp16 = True
    for norm in (*(MOST_SKIPPED - 1) * [float("inf")], 1.0, *(MOST_SKIPPED - 1) * [float("nan")]):
        trainer._get_grad_norm(trainer.model, torch.tensor(norm))
    trainer.log({"loss": 1.0})
    trainer._get_grad_norm(trainer.model, torch.tensor(float("inf")))
    with pytest.raises(Refusal, match=r"step 1 has a loss or gradients .* or set precision 32"):
        trainer.log({"loss": 1.0})


def test_a_validation_without_a_loss_stops_it(trainer: Any) -> None:
    trainer.log({"eval_loss": 1.0})
    with pytest.raises(Refusal, match="the validation loss after step 0 is not"):
        trainer.log({"eval_loss": float("nan")})


def test_packed_batches_are_not_split_between_gpus(trainer: Any) -> None:
    assert trainer._wrap_model(trainer.model) is trainer.model


def test_a_process_without_a_launcher_says_that_it_uses_one_gpu(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from chat_completion.common.device import Device
    from chat_completion.finetune import check_gpus

    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    check_gpus(Device(gpus=1, bf16=True))
    assert not capsys.readouterr().out
    check_gpus(Device(gpus=4, bf16=True))
    assert "note: one of 4 GPUs is used" in capsys.readouterr().out
    monkeypatch.setenv("WORLD_SIZE", "1")
    check_gpus(Device(gpus=4, bf16=True))
    assert not capsys.readouterr().out
