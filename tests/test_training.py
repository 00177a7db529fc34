from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlops.cli.train import parse
from mlops.errors import TrainingFailed, UsageError
from mlops.follow import Progress, failure, timed
from mlops.resources import Job
from mlops.training import (
    check_parameters,
    display_name,
    folder_hash,
    literal,
    resolve_parameters,
    truth,
)

values = st.one_of(st.integers(), st.booleans(), st.sampled_from(["cosine", "linear", "true"]))
parameters = st.dictionaries(st.sampled_from(["a", "b", "learning_rate", "apply_lora"]), values)


@given(parameters, parameters)
def test_a_users_setting_beats_the_models_default_which_beats_ours(
    wanted: dict[str, object], model: dict[str, object]
) -> None:
    found = {item.name: item for item in resolve_parameters(wanted, model)}

    for name, item in found.items():
        source = "setting" if name in wanted else "model" if name in model else "default"
        assert item.source == source
        assert name not in wanted or item.value == wanted[name]
        assert name in wanted or name not in model or item.value == model[name]
    assert set(wanted) | set(model) <= set(found)


def test_the_display_name_is_the_tutorials() -> None:
    values = {
        "per_device_train_batch_size": 1,
        "gradient_accumulation_steps": 2,
        "lr_scheduler_type": "cosine",
        "apply_deepspeed": "true",
        "deepspeed_stage": 2,
        "apply_lora": True,
        "save_total_limit": 1,
        "max_seq_length": -1,
    }

    name = display_name("Phi-3-mini-4k-instruct", values, gpus_per_node=4, nodes=2)

    assert name == "Phi-3-mini-4k-instruct-ultrachat-bs16-cosine-ds2-lora-save_limit1-seqlen-1"


def test_the_display_name_says_what_is_off() -> None:
    name = display_name("m", {"apply_deepspeed": False, "apply_lora": "false"}, gpus_per_node=1, nodes=1)

    assert "-nods-nolora-" in name


@pytest.mark.parametrize(
    ("value", "text"), [(True, "true"), (False, "false"), (3, 3), (5e-6, 5e-6), ("cosine", "cosine")]
)
def test_booleans_travel_in_lower_case(value: object, text: object) -> None:
    assert literal(value) == text
    if isinstance(value, bool):
        assert truth(literal(value)) == value


def test_a_folders_hash_follows_names_and_contents_and_no_caches(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("1", encoding="utf-8")
    first = folder_hash(tmp_path)
    (tmp_path / "__pycache__").mkdir()
    (tmp_path / "__pycache__" / "a.pyc").write_text("x", encoding="utf-8")

    assert folder_hash(tmp_path) == first
    (tmp_path / "a.py").rename(tmp_path / "b.py")
    assert folder_hash(tmp_path) != first


@pytest.mark.parametrize(
    ("status", "words"), [("Canceled", "was cancelled"), ("Paused", "'Paused'"), ("NotResponding", "'Not")]
)
def test_whatever_is_not_completed_is_no_success(status: str, words: str) -> None:
    job = Job(name="j", status=status)

    error = failure(None, Progress(job=job, steps=()))  # type: ignore[arg-type]

    assert not job.is_running
    assert not job.is_completed
    assert isinstance(error, TrainingFailed)
    assert words in error.message


def test_a_step_is_timed_from_when_it_was_first_seen_running() -> None:
    seen: dict[str, Job] = {}

    assert timed([Job(name="s", status="NotStarted")], seen)[0].seconds is None
    running = timed([Job(name="s", status="Running")], seen)[0]
    ended = timed([Job(name="s", status="Completed")], seen)[0]
    assert running.started == ended.started
    assert ended.ended is not None
    assert timed([Job(name="s", status="Completed")], seen)[0] == ended


@pytest.mark.parametrize(
    ("given", "value"),
    [("1", 1), ("5e-3", 0.005), ("true", True), ("cosine", "cosine"), ("", ""), ("0.5", 0.5)],
)
def test_an_override_is_read_as_people_mean_it(given: str, value: object) -> None:
    read = parse((f"name={given}",))["name"]

    assert (read, type(read)) == (value, type(value))


@pytest.mark.parametrize("given", ["name", "=1", "name={", "name=[1, 2]", "name=null", "name=2026-01-01"])
def test_an_override_that_is_no_value_is_wrong_use(given: str) -> None:
    with pytest.raises(UsageError):
        parse((given,))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("per_device_train_batch_size", "abc"), ("num_nodes_finetune", 0), ("gradient_accumulation_steps", 1.5),
        ("huggingface_id", "someone/else"), ("train_file_path", "x"), ("compute_finetune", "other"),
    ],
)  # fmt: skip
def test_a_parameter_that_could_not_hold_is_refused(name: str, value: object) -> None:
    with pytest.raises(UsageError, match=name):
        check_parameters({name: value})
