from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlops.azure import jobs
from mlops.azure.errors import UnavailableError
from mlops.cli.train import parse
from mlops.config.settings import load
from mlops.core import lineage
from mlops.core.errors import AzureError, TrainingFailed, UsageError
from mlops.core.resources import Job, PipelineInput
from mlops.training import register
from mlops.training.pipeline import folder_hash, literal, problems
from mlops.training.submit import (
    TrainingPlan,
    check_parameters,
    chosen,
    display_name,
    resolve_parameters,
    submit,
    truth,
)
from mlops.training.wait import Progress, failure, timed
from tests.support.checkout import ROOT

values = st.one_of(st.integers(), st.booleans(), st.sampled_from(["cosine", "linear", "true"]))
parameters = st.dictionaries(st.sampled_from(["a", "b", "learning_rate", "apply_lora"]), values)


@given(parameters, parameters, st.sampled_from(["registry", "components"]))
def test_a_users_setting_beats_the_models_default_which_beats_ours(
    requested: dict[str, object], model: dict[str, object], pipeline: str
) -> None:
    by_name = {item.name: item for item in resolve_parameters(requested, model, pipeline=pipeline)}

    for name, item in by_name.items():
        source = "setting" if name in requested else "model" if name in model else "default"
        assert item.source == source
        assert name not in requested or item.value == requested[name]
        assert name in requested or name not in model or item.value == model[name]
    assert set(requested) | set(model) <= set(by_name)
    # A lost node costs minutes with our components; what the registry's does without a checkpoint is not known.
    assert ("resume_from_checkpoint" in by_name) == (pipeline == "components")


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


def test_a_folders_hash_follows_no_documents(tmp_path: Path) -> None:
    """A merge of documentation must not cause a training."""
    (tmp_path / "a.py").write_text("1", encoding="utf-8")
    first = folder_hash(tmp_path)
    (tmp_path / "README.md").write_text("# A", encoding="utf-8")

    assert folder_hash(tmp_path) == first


def test_a_folders_hash_follows_names_and_contents_and_no_caches(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("1", encoding="utf-8")
    first = folder_hash(tmp_path)
    (tmp_path / "__pycache__").mkdir()
    (tmp_path / "__pycache__" / "a.pyc").write_text("x", encoding="utf-8")

    assert folder_hash(tmp_path) == first
    (tmp_path / "chat_flow").mkdir()
    (tmp_path / "chat_flow" / "node.py").write_text("y", encoding="utf-8")
    assert folder_hash(tmp_path) != first
    assert folder_hash(tmp_path, without=("chat_flow",)) == first
    (tmp_path / "chat_flow" / "node.py").unlink()
    (tmp_path / "a.py").rename(tmp_path / "b.py")
    assert folder_hash(tmp_path) != first


@pytest.mark.parametrize(
    ("status", "message"), [("Canceled", "was cancelled"), ("Paused", "'Paused'"), ("NotResponding", "'Not")]
)
def test_whatever_is_not_completed_is_no_success(status: str, message: str) -> None:
    job = Job(name="j", status=status)

    error = failure(None, Progress(job=job, steps=()))  # type: ignore[arg-type]

    assert not job.is_running
    assert not job.is_completed
    assert isinstance(error, TrainingFailed)
    assert message in error.message


def test_a_step_is_timed_from_when_it_was_first_seen_running() -> None:
    jobs_seen: dict[str, Job] = {}

    assert timed([Job(name="s", status="NotStarted")], jobs_seen)[0].seconds is None
    running = timed([Job(name="s", status="Running")], jobs_seen)[0]
    ended = timed([Job(name="s", status="Completed")], jobs_seen)[0]
    assert running.started == ended.started
    assert ended.ended is not None
    assert timed([Job(name="s", status="Completed")], jobs_seen)[0] == ended


@pytest.mark.parametrize(
    ("override", "value"),
    [("1", 1), ("5e-3", 0.005), ("true", True), ("cosine", "cosine"), ("", ""), ("0.5", 0.5)],
)
def test_an_override_is_read_as_people_mean_it(override: str, value: object) -> None:
    read = parse((f"name={override}",))["name"]

    assert (read, type(read)) == (value, type(value))


@pytest.mark.parametrize("override", ["name", "=1", "name={", "name=[1, 2]", "name=null", "name=2026-01-01"])
def test_an_override_that_is_no_value_is_wrong_use(override: str) -> None:
    with pytest.raises(UsageError):
        parse((override,))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("per_device_train_batch_size", "abc"),
        ("num_nodes_finetune", 0),
        ("gradient_accumulation_steps", 1.5),
        ("huggingface_id", "someone/else"),
        ("train_file_path", "x"),
        ("compute_finetune", "other"),
    ],
)
def test_a_parameter_that_could_not_hold_is_refused(name: str, value: object) -> None:
    with pytest.raises(UsageError, match=name):
        check_parameters({name: value})


# -- the choices of one run --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("option", "source", "what"),
    [
        (None, "huggingface", "microsoft/Phi-3-mini-4k-instruct"),
        ("Phi-3-mini-4k-instruct", "huggingface", "microsoft/Phi-3-mini-4k-instruct"),  # the settings' own
        ("microsoft/Phi-3-mini-4k-instruct", "huggingface", "microsoft/Phi-3-mini-4k-instruct"),
        ("Qwen/Qwen3-4B", "huggingface", "Qwen/Qwen3-4B"),
        ("Phi-4", "registry", ("Phi-4", "latest")),
        ("Phi-4:7", "registry", ("Phi-4", "7")),
    ],
)
def test_the_base_model_of_one_run(option: str | None, source: str, what: Any) -> None:
    settings = load("staging", ROOT / "mlops.yaml")

    choice = chosen(settings, base_model=option).base_model

    assert choice.source == source
    assert what in (choice.huggingface_id, (choice.name, choice.version))
    assert "/" not in choice.name


def test_the_percentage_of_one_run() -> None:
    settings = load("staging", ROOT / "mlops.yaml")

    assert chosen(settings, percent=7).data.percent == 7
    assert chosen(settings) == settings


def test_the_reason_is_a_tag_that_azure_takes() -> None:
    assert lineage.tags(ROOT, reason="more\nbirds ")["reason"] == "more birds"
    assert len(lineage.tags(ROOT, reason="x" * 1000)["reason"]) == 256
    assert "reason" not in lineage.tags(ROOT)
    assert "reason" in register.LINEAGE


@pytest.fixture
def plan() -> TrainingPlan:
    return TrainingPlan(
        display_name="d",
        experiment="e",
        base_model="b",
        component="c",
        compute="gpu",
        gpus_per_node=1,
        nodes=1,
        parameters=(),
        inputs={},
        tags={},
        fingerprint="f" * 64,
    )


def test_a_submission_whose_answer_is_lost_or_that_another_was_faster_with_is_joined(
    plan: TrainingPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    there: dict[str, Job] = {}

    def submit_and_lose(_session: Any, spec: jobs.PipelineSpec) -> Job:
        there[spec.name] = Job(name=spec.name, status="Running")
        raise UnavailableError("submit the pipeline: no answer from Azure")

    def refuse(_session: Any, spec: jobs.PipelineSpec) -> Job:
        raise AzureError(f"submit the pipeline: {spec.name} is not wanted")

    monkeypatch.setattr(jobs, "get", lambda _session, name: there.get(name))
    settings, session = load("local", ROOT / "mlops.yaml"), cast(Any, None)
    monkeypatch.setattr(jobs, "submit", refuse)
    with pytest.raises(AzureError, match="not wanted"):
        submit(session, settings, plan)
    monkeypatch.setattr(jobs, "submit", submit_and_lose)
    submission = submit(session, settings, plan)
    assert (submission.job.name, submission.is_new) == (plan.job_name(1), False)


# -- what the pipeline takes -------------------------------------------------------------------------------------------

TAKES = {
    entry.name: entry
    for entry in (
        PipelineInput(name="num_train_epochs", type="integer", least=1, most=100),
        PipelineInput(name="learning_rate", type="number"),
        PipelineInput(name="apply_lora", type="string", values=("true", "false")),
        PipelineInput(name="deepspeed_stage", type="string", values=("2", "3")),
        PipelineInput(name="train_file_path", type="uri_file"),
    )
}


@pytest.mark.parametrize(
    ("parameters", "hints"),
    [
        ({"num_train_epochs": 3, "learning_rate": 5e-6, "apply_lora": True, "deepspeed_stage": 2}, []),
        ({"num_train_epochs": "3", "apply_lora": "false", "train_file_path": jobs.FileInput(Path("x"))}, []),
        ({"num_train_epochs": 0}, ["1 and more"]),
        ({"num_train_epochs": 101}, ["100 and less"]),
        ({"num_train_epochs": 1.5}, ["a whole number"]),
        ({"num_train_epochs": float("nan")}, ["a whole number"]),
        ({"learning_rate": "fast"}, ["a number"]),
        ({"apply_lora": "maybe", "deepspeed_stage": 1}, ["true, false", "2, 3"]),
        ({"learning_rat": 1}, ["did you mean 'learning_rate'?"]),
        ({"zzz": 1}, ["see training.parameters"]),
    ],
)
def test_every_parameter_that_the_pipeline_does_not_take_is_told(parameters: dict[str, Any], hints: list[str]) -> None:
    issues = list(problems(TAKES, parameters))

    assert len(issues) == len(hints)
    for problem, hint in zip(issues, hints, strict=True):
        assert hint in (problem.hint or "")


def test_a_parameter_that_the_pipeline_needs_and_does_not_get_is_told() -> None:
    needs = TAKES | {"task": PipelineInput(name="task", type="string", required=True)}

    (problem,) = problems(needs, {"learning_rate": 1})

    assert "needs the parameter 'task'" in problem.message
