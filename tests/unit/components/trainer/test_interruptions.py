"""A training that is killed, or finds its disk full, and the one that goes on from its checkpoint."""

from __future__ import annotations

import functools
import json
import os
import random
import resource
import shutil
import signal
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest

from chat_completion.common.refusal import Refusal
from chat_completion.trainer import checkpoints
from tests.support.waiting import until
from tests.unit.components.tiny import curve, finish, start, start_ranks, train, write_inputs

pytestmark = [pytest.mark.slow]

FULL = (pytest.mark.full, pytest.mark.skipif(not os.environ.get("MLOPS_FULL"), reason="MLOPS_FULL=1 runs it"))

SETTINGS: dict[str, Any] = {
    "apply_lora": "true",
    "lora_r": 4,
    "lora_dropout": 0.2,
    "num_train_epochs": 3,
    "per_device_train_batch_size": 4,
    "learning_rate": 0.01,
    "lr_scheduler_type": "cosine",
    "logging_steps": 3,
    "resume_from_checkpoint": "true",
    "save_total_limit": 2,
    "apply_early_stopping": "true",
    "early_stopping_patience": 9,
    "weight_decay": 0.1,
}
EVERY_STEP = {"MLOPS_CHECKPOINT_S": "0"}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return write_inputs(tmp_path_factory.mktemp("inputs"))


@pytest.fixture(scope="module")
def whole(inputs: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training that nothing interrupted."""
    out = tmp_path_factory.mktemp("whole") / "out"
    train(out, **inputs, **SETTINGS)
    return out


def kill_after(process: BaseProcess, out: Path, step: int, *, wait_s: float) -> None:
    """Kills a training when its checkpoint of a step, or a later one, has begun to appear."""

    def begun() -> bool:
        written = checkpoints.list_checkpoints(out / "checkpoints")
        return bool(written and written[0][0] >= step) or not process.is_alive()

    until(begun, what=f"the checkpoint of step {step}", every_s=0.002)
    time.sleep(wait_s)
    assert process.pid
    os.kill(process.pid, signal.SIGKILL)
    process.join()


def test_killed_and_taken_up_again_it_ends_as_if_nothing_had_been(
    inputs: dict[str, Any], whole: Path, tmp_path: Path
) -> None:
    draw = random.Random(os.environ.get("MLOPS_TEST_SEED", "1"))
    out = tmp_path / "out"
    for step in (draw.randint(1, 11), draw.randint(12, 22)):
        process = start(out, env=EVERY_STEP, **inputs, **SETTINGS)
        kill_after(process, out, step, wait_s=draw.random() * 0.03)
        assert process.exitcode == -signal.SIGKILL
    log = finish(start(out, env=EVERY_STEP, **inputs, **SETTINGS), out)
    assert log.count("going on from checkpoint-") == 2
    assert curve(out) == curve(whole)
    assert (out / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    assert not (out / "checkpoints").exists()


@pytest.mark.full
@pytest.mark.skipif(not os.environ.get("MLOPS_FULL"), reason="MLOPS_FULL=1 runs it")
def test_two_processes_go_on_together(inputs: dict[str, Any], tmp_path: Path) -> None:
    settings = SETTINGS | {"per_device_train_batch_size": 2}
    for name in ("whole", "out"):
        out = tmp_path / name
        started = start_ranks(out, processes=2, env=EVERY_STEP, **inputs, **settings)
        if name == "out":
            # The first checkpoint by the clock is that of step 10: before, the processes do not ask each other.
            kill_after(started[0], out, 10, wait_s=0.2)
            os.kill(started[1].pid or 0, signal.SIGKILL)
            started[1].join()
            started = start_ranks(out, processes=2, env=EVERY_STEP, **inputs, **settings)
        log = [finish(process, out) for process in started][-1]
    assert log.count("going on from checkpoint-") == 1
    # What a process had not logged is taken up as the mean of both: the same but for its rounding.
    assert [*map(pytest.approx, curve(tmp_path / "whole"))] == curve(tmp_path / "out")
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "out")]
    assert weights[0] == weights[1]


def gone_after(step: int) -> None:
    """From now on this process is gone when the checkpoint of a step is whole, as when its node is taken away."""
    from chat_completion.trainer.training import PackedTrainer

    save = PackedTrainer._save_checkpoint

    def save_and_go(self: Any, *arguments: Any) -> None:
        save(self, *arguments)
        self.accelerator.wait_for_everyone()
        if self.state.global_step >= step:
            os._exit(9)

    PackedTrainer._save_checkpoint = save_and_go  # type: ignore[method-assign, assignment]


def trained_by(
    processes: int, out: Path, *, code: int = 0, before: Callable[[], None] | None = None, **inputs: Any
) -> str:
    """Trains on some processes, each step of 8 conversations; the log."""
    accumulation = {"gradient_accumulation_steps": 4 // processes, "per_device_train_batch_size": 2}
    settings = {"before": before, **SETTINGS, "lora_dropout": 0.0, "evaluation_strategy": "steps", "eval_steps": 3}
    if processes == 1:
        return finish(start(out, **inputs, **settings | accumulation), out, code=code)
    started = start_ranks(out, processes=processes, **inputs, **settings | accumulation)
    return [finish(process, out, code=code) for process in started][-1]


@pytest.fixture(scope="module")
def undisturbed(inputs: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training on one process that nothing interrupted, 12 steps in all."""
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    trained_by(1, out, **inputs)
    return out


@pytest.mark.parametrize(("first", "then"), [(2, 1), (1, 2)])
def test_another_number_of_processes_goes_on_with_the_same_steps(
    inputs: dict[str, Any], undisturbed: Path, tmp_path: Path, first: int, then: int
) -> None:
    from safetensors.numpy import load_file

    out = tmp_path / "out"
    # Step 6 is in the middle of the second epoch.
    trained_by(first, out, before=functools.partial(gone_after, 6), code=9, **inputs)
    log = trained_by(then, out, **inputs)
    assert "going on from checkpoint-6" in log
    assert f"{first} process(es) have written it" in log
    expected = curve(undisturbed)
    assert [line["step"] for line in curve(out)] == [line["step"] for line in expected]
    for line, target in zip(curve(out), expected, strict=True):
        assert line == pytest.approx(target, rel=1e-3)
    weights, target = (load_file(folder / "model.safetensors") for folder in (out, undisturbed))
    base = load_file(inputs["model_selector_output"] / "model.safetensors")
    for name, weight in weights.items():
        assert abs(weight - target[name]).max() <= 1e-3 * abs(target[name] - base[name]).max(), name


@pytest.mark.parametrize(
    ("processes", "batch", "message"),
    [
        (2, 2, "set per_device_train_batch_size 2 and gradient_accumulation_steps 3"),
        (3, 8, "set per_device_train_batch_size 4 and gradient_accumulation_steps 1"),
        (5, 2, "12 conversations cannot be shared by 5 processes"),
    ],
)
def test_steps_of_another_size_are_refused_with_what_would_make_them_equal(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, processes: int, batch: int, message: str
) -> None:
    from chat_completion.trainer.recipe import Inputs, check_steps

    monkeypatch.setenv("WORLD_SIZE", str(processes))
    inputs = Inputs(tmp_path, tmp_path, tmp_path, per_device_train_batch_size=batch)
    with pytest.raises(Refusal, match=message):
        check_steps(inputs, 12)
    check_steps(inputs, batch * processes)


@pytest.mark.full
@pytest.mark.skipif(not os.environ.get("MLOPS_FULL"), reason="MLOPS_FULL=1 runs it")
def test_other_settings_do_not_go_on_from_it(inputs: dict[str, Any], tmp_path: Path) -> None:
    out = tmp_path / "out"
    kill_after(start(out, env=EVERY_STEP, **inputs, **SETTINGS), out, 5, wait_s=0)
    log = finish(start(out, **inputs, **SETTINGS | {"learning_rate": 0.02}), out, code=2)
    assert "learning_rate was 0.01 and is 0.02" in log
    assert "Traceback" not in log
    # Whoever wants to start anew says so.
    log = train(out, **inputs, **SETTINGS | {"learning_rate": 0.02, "resume_from_checkpoint": "false", "max_steps": 2})
    assert "going on" not in log.rpartition("error:")[2]


def without_results() -> None:
    """From now on this process ends when it would write the trained model."""
    from chat_completion import finetune

    finetune.write_results = lambda *_, **__: os._exit(9)


@pytest.mark.parametrize(
    "ending",
    [
        {"max_steps": 4, "early_stopping_patience": 9},
        {"learning_rate": 0.3, "early_stopping_patience": 1, "num_train_epochs": 8},
    ],
    ids=["in an epoch", "early"],
)
def test_a_training_that_was_over_is_not_continued(
    inputs: dict[str, Any], tmp_path: Path, ending: dict[str, Any]
) -> None:
    settings = SETTINGS | ending
    out = tmp_path / "out"
    finish(start(out, before=without_results, **inputs, **settings), out, code=9)
    last = checkpoints.newest(out / "checkpoints")
    assert last
    state = json.loads((last.folder / "trainer_state.json").read_text())
    log = finish(start(out, **inputs, **settings), out)
    assert "going on from" in log
    # Nothing was learnt, and nothing validated again: the curve is the one that the checkpoint holds.
    assert [line["step"] for line in curve(out)] == [line["step"] for line in state["log_history"]]


def most_bytes(limit: int) -> None:
    """From now on this process cannot write a larger file."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))


@pytest.mark.parametrize(
    ("limit", "what"),
    [
        (20_000, "the checkpoint at step"),
        pytest.param(60_000, "the trained model", marks=FULL),
    ],
)
def test_a_full_disk_is_said_and_leaves_the_last_good_checkpoint(
    inputs: dict[str, Any], tmp_path: Path, limit: int, what: str
) -> None:
    out = tmp_path / "out"
    settings = SETTINGS | {"max_steps": 6}
    kill_after(start(out, env=EVERY_STEP, **inputs, **settings), out, 3, wait_s=0)
    good = checkpoints.newest(out / "checkpoints")
    assert good
    limited = functools.partial(most_bytes, limit)
    log = finish(start(out, env=EVERY_STEP, before=limited, **inputs, **settings), out, code=2)
    errors = [line for line in log.splitlines() if line.startswith("finetune: error:")]
    assert len(errors) == 1
    assert f"no room for {what}" in errors[0]
    assert "Traceback" not in log
    checkpoint = checkpoints.newest(out / "checkpoints")
    assert checkpoint
    assert f"the last good one is '{checkpoint.folder.name}'" in errors[0]
    assert checkpoint == good if limit == 20_000 else checkpoint.step == 6
    assert next(path for _, path in checkpoints.list_checkpoints(out / "checkpoints")) == checkpoint.folder


@pytest.mark.parametrize("text", ["soon", "", "nan", "-1"])
def test_a_clock_that_cannot_be_read_is_refused(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("MLOPS_CHECKPOINT_S", text)
    with pytest.raises(Refusal, match=f"MLOPS_CHECKPOINT_S is '{text}': give the seconds between two checkpoints"):
        checkpoints.Schedule()


def test_no_more_checkpoints_than_allowed(tmp_path: Path) -> None:
    for step in (1, 2, 3, 4):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        (folder / "weights").write_bytes(b"w")
        checkpoints.seal(folder, resumable=step != 4, made_by={"a": 1}, unlogged_loss=0.5, last_logged=step)
    # What a node that vanished may leave: a folder without its seal, and a sealed one whose file is cut off.
    (tmp_path / "checkpoint-5").mkdir()
    shutil.copytree(tmp_path / "checkpoint-4", tmp_path / "checkpoint-6")
    (tmp_path / "checkpoint-6" / "weights").write_bytes(b"")
    assert next(path.name for _, path in checkpoints.list_checkpoints(tmp_path)) == "checkpoint-6"
    assert checkpoints.remove_broken(tmp_path) == ["checkpoint-6", "checkpoint-5"]
    checkpoints.rotate(tmp_path, keep=None, best=None)
    checkpoints.rotate(tmp_path, keep=2, best=str(tmp_path / "checkpoint-1"))
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoint-1", "checkpoint-4"}
    checkpoints.rotate(tmp_path, keep=1, best=str(tmp_path / "checkpoint-1"))
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoint-1", "checkpoint-4"}
    newest = checkpoints.newest(tmp_path, resumable=True)
    assert newest == checkpoints.Checkpoint(tmp_path / "checkpoint-1", 1, True, {"a": 1}, 0.5, 1)
    with pytest.raises(Refusal, match="a was 1 and is 2"):
        checkpoints.check_same(newest, {"a": 2})


def test_a_stray_file_breaks_no_checkpoint_unless_it_would_be_loaded(tmp_path: Path) -> None:
    (tmp_path / "model-1.safetensors").write_bytes(b"w")
    removed_while_open = tmp_path / ".nfs000000000123"  # NFS keeps such a file until the last program has closed it
    removed_while_open.touch()
    checkpoints.seal(tmp_path, resumable=True, made_by={}, unlogged_loss=0.0, last_logged=1)
    removed_while_open.unlink()
    assert checkpoints.read(tmp_path, 1)
    for name in (".nfs000000000124", "notes.txt"):
        (tmp_path / name).write_text("stray")
    assert checkpoints.read(tmp_path, 1)
    # transformers would take it instead of the parts.
    (tmp_path / "model.safetensors").write_bytes(b"another")
    assert checkpoints.read(tmp_path, 1) is None
