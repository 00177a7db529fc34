"""Training jobs that do not end well, and how the commands say so."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.checkout import ROOT
from tests.support.waiting import HANG_S

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("home")]


def mlops(*arguments: str, code: int) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mlops", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    return done


def test_a_step_that_fails_is_named_with_the_end_of_its_log() -> None:
    done = mlops("train", "--set", "apply_ort=true", "--json", code=5)

    error = json.loads(done.stdout)["error"]
    assert "'validation'" in error["message"]
    assert any("apply_ort" in line for line in error["details"])
    name = error["message"].split("'")[3]
    assert "not 'Completed'" in json.loads(mlops("register", name, "--json", code=5).stdout)["error"]["message"]
    # a failed job is never reused: the next attempt is another job
    again = json.loads(mlops("train", "--set", "apply_ort=true", "--detach", "--json", code=0).stdout)
    assert again["job"] != name


def test_a_parameter_that_the_pipeline_has_not_is_refused_by_name() -> None:
    done = mlops("train", "--set", "learning_rat=1", "--detach", code=2)

    assert "learning_rat" in done.stderr


def test_waiting_gives_up_leaves_the_job_and_finds_it_again() -> None:
    submitted = json.loads(mlops("train", "--set", "num_train_epochs=200", "--detach", "--json", code=0).stdout)
    name = submitted["job"]

    error = json.loads(mlops("wait", name, "--timeout", "1", "--json", code=9).stdout)["error"]
    assert error["hint"] == f"mlops wait {name}"
    joined = json.loads(mlops("train", "--set", "num_train_epochs=200", "--detach", "--json", code=0).stdout)
    assert joined["job"] == name

    interrupted(name, "--cancel-on-interrupt")
    message = json.loads(mlops("wait", name, "--json", code=5).stdout)["error"]["message"]
    assert "was cancelled" in message


def interrupted(name: str, *options: str) -> None:
    """Ctrl-C during `mlops wait`."""
    command = [sys.executable, "-m", "mlops", "wait", name, *options]
    process = subprocess.Popen(
        command, cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=dict(os.environ)
    )
    assert process.stderr is not None
    while ": Running" not in (line := process.stderr.readline()):  # a step, so it has looked at the job
        assert line, "ended before it began to wait"
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=HANG_S)
    assert process.returncode == 130, err
    assert "cancelled" in err


def test_jobs_that_are_not_there() -> None:
    assert "no job 'nothing'" in mlops("wait", "nothing", code=3).stderr
    assert "no job 'nothing'" in mlops("register", "nothing", code=3).stderr


def test_a_dry_run_submits_and_creates_nothing(home: Path) -> None:
    del home
    plan = json.loads(mlops("train", "--dry-run", "--json", code=0).stdout)

    assert plan["plan"]["parameters"]["lora_r"] == {"value": 16, "from": "setting"}
    assert plan["plan"]["parameters"]["max_seq_length"]["from"] == "default"
    mlops("wait", plan["plan"]["job"], code=3)


def test_the_choices_of_a_dispatch_are_in_the_plan() -> None:
    choices = ["--base-model", "acme/birds-1b", "--percent", "50", "--epochs", "2", "--reason", "more birds"]
    shown = json.loads(mlops("train", "--dry-run", "--json", *choices, code=0).stdout)["plan"]
    empty = [part for name in choices[::2] for part in (name, "")]
    usual = json.loads(mlops("train", "--dry-run", "--json", *empty, code=0).stdout)["plan"]

    assert shown["base_model"] == "https://huggingface.co/acme/birds-1b"
    assert shown["parameters"]["num_train_epochs"] == {"value": 2, "from": "setting"}
    assert shown["tags"]["reason"] == "more birds"
    assert shown["tags"]["model"] == usual["tags"]["model"]
    assert shown["tags"]["data-hash"] != usual["tags"]["data-hash"]
    assert usual == json.loads(mlops("train", "--dry-run", "--json", code=0).stdout)["plan"]
    assert "prepared" in mlops("train", "--data", "folder", "--percent", "5", code=2).stderr
