"""What outlived its workflow is gone on with, once: the second run finds nothing to do."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from mlops import cli, reconcile
from mlops.azure import endpoints, jobs
from mlops.azure import models as azure_models
from mlops.azure.endpoints import shares
from mlops.core.errors import AzureError, GateFailed
from mlops.core.resources import MODEL_TAG, Job
from mlops.ledger import Begin, Ledger, Planned, TrafficIntent, history, unfinished
from mlops.reconcile import REPORTED_TAG
from mlops.rollout.abandoned import recover_abandoned
from mlops.rollout.deploy import deploy
from mlops.training import register
from tests.support.checkout import ROOT
from tests.support.waiting import HANG_S, until

from .conftest import QUESTIONS, Bench

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # the SDK's own, at each load of an environment
]
MODEL = "printf 'flavors: {python_function: {loader_module: x}}\\n' > ${{outputs.model}}/MLmodel"
ANSWERS = f"echo '{json.dumps(QUESTIONS)}' > ${{{{outputs.model}}}}/answers.json"


def train(
    bench: Bench, line: str = f"{MODEL} && {ANSWERS}", *, wait: bool = True, tags: Mapping[str, str] | None = None
) -> str:
    """A training as this repository submits it, of one step that is a line of shell."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from azure.ai.ml import Output, command, dsl

        made = command(
            name="finetune",
            command=line,
            environment="azureml:not-built-here:1",
            outputs={"model": Output(type="mlflow_model")},
        )

        @dsl.pipeline()  # type: ignore[untyped-decorator]
        def pipeline() -> dict[str, Any]:
            return {jobs.OUTPUT: made().outputs.model}

        job = pipeline()
        job.settings.default_compute = "serverless"
        job.tags = {"managed-by": "mlops", MODEL_TAG: bench.settings.model.name, **(tags or {})}
        name = str(bench.session.ml.jobs.create_or_update(job, experiment_name=bench.settings.experiment).name)
    if wait:
        until(lambda: not job_named(bench, name).is_running, what=f"the end of {name}", every_s=0.1)
    return name


def job_named(bench: Bench, name: str) -> Job:
    found = jobs.get(bench.session, name)
    assert found is not None
    return found


def train_on(bench: Bench) -> str:
    """A training that runs until it is cancelled, once it does."""
    name = train(bench, f"sleep {HANG_S:.0f}", wait=False)
    until(lambda: job_named(bench, name).status == "Running", what=f"the start of {name}", every_s=0.1)
    return name


def again(bench: Bench, **options: Any) -> reconcile.Outcome:
    return reconcile.reconcile(bench.session, bench.settings, **options)


def versions(bench: Bench) -> list[str]:
    return [item.version for item in azure_models.versions(bench.session, register.model_name(bench.settings))]


def traffic(bench: Bench) -> dict[str, int]:
    found = endpoints.get(bench.session, bench.settings.endpoint.name)
    assert found is not None
    return shares(found.traffic)


def test_a_completed_training_is_registered_and_offered_until_it_is_live(bench: Bench) -> None:
    assert again(bench).did_nothing
    job = train(bench, tags={"commit": "abc", "actor": "ada", "reason": "more birds"})
    assert again(bench, dry_run=True).work.register[0].name == job
    assert versions(bench) == []

    first = again(bench)
    ((registered, version),) = first.registered
    assert registered.name == job
    assert (version.tags["job"], version.tags["reason"], version.tags["actor"]) == (job, "more birds", "ada")
    assert first.deploy.version == version.version
    second = again(bench)
    assert second.registered == []
    assert second.deploy.version == version.version  # until somebody has deployed it

    deploy(bench.session, bench.settings, version, test_rows=bench.rows)
    assert again(bench).did_nothing
    azure_models.archive(bench.session, version.name, version.version)
    assert again(bench).did_nothing  # what cleanup has archived does not come back


def test_a_version_that_the_gate_refused_is_not_offered_again(bench: Bench) -> None:
    train(bench, f"{MODEL} && echo '{{}}' > ${{{{outputs.model}}}}/answers.json")
    version = register.find(bench.session, bench.settings, again(bench).deploy.version)
    with pytest.raises(GateFailed):
        deploy(bench.session, bench.settings, version, test_rows=bench.rows)

    outcome = again(bench)

    assert outcome.did_nothing
    assert "did not pass" in outcome.deploy.why


def test_a_training_that_failed_is_reported_once_with_the_end_of_its_log(bench: Bench) -> None:
    job = train(bench, "echo the data is gone >&2; exit 3")

    for _ in range(2):  # until it is marked: whoever was to tell it may have died
        (failure,) = again(bench).failures
        assert "the step 'finetune'" in failure.error.message
        assert any("the data is gone" in line for line in failure.error.details)
    reconcile.mark_reported(bench.session, job)

    assert again(bench).did_nothing
    found = jobs.get(bench.session, job)
    assert found is not None
    assert found.status == "Failed"
    assert set(found.tags) == {"managed-by", MODEL_TAG, REPORTED_TAG}


def test_trainings_of_others_are_left_alone(bench: Bench) -> None:
    train(bench, tags={"managed-by": "somebody"})
    train(bench, tags={MODEL_TAG: "another"})

    assert again(bench).did_nothing


def test_a_rollout_that_was_left_half_way_is_undone_and_one_that_is_under_way_is_not(bench: Bench) -> None:
    first, second = bench.model("1", QUESTIONS), bench.model("2", QUESTIONS)
    name = bench.settings.endpoint.name
    deploy(bench.session, bench.settings, first, test_rows=bench.rows)
    assert recover_abandoned(bench.session, name) is None
    (before,) = traffic(bench)
    other = "green" if before == "blue" else "blue"
    spec_of = Ledger(bench.session, name)
    with spec_of.acquire(action="deploy") as lock:
        lock.write(Begin(model=second.name, version="2", machine={"boot": "another", "pid": 1}))
        lock.write(
            Planned(action="deploy", slot=other, live=before, before={before: 100}, model=second.name, version="2")
        )
        lock.write(TrafficIntent(desired={other: 50, before: 50}, what="step"))
        assert recover_abandoned(bench.session, name) is None  # somebody is at work
        assert again(bench).did_nothing
    endpoints.set_traffic(bench.session, name, {}, fence=lambda: None)  # what it left is not what it wanted
    repaired = again(bench, dry_run=True)
    assert repaired.repair is not None
    assert unfinished(spec_of.read())

    done = again(bench)

    assert done.repair is not None
    assert not unfinished(spec_of.read())
    entries = history(spec_of.read())
    assert [entry.action for entry in entries] == ["recover", "deploy", "deploy"]
    assert entries[0].outcome == "recovered"
    assert again(bench).did_nothing


DEPLOY = """
import sys
from pathlib import Path
from mlops.rollout.deploy import deploy
from mlops.training import register
from mlops.azure.session import connect
from mlops.core.console import Console
from mlops.config.settings import Settings

settings = Settings.model_validate_json(Path(sys.argv[1]).read_text(encoding="utf-8"))
session = connect(settings, Console(quiet=True))
deploy(session, settings, register.find(session, settings, "2"), test_rows=Path(sys.argv[2]))
"""


def test_what_a_killed_runner_left_is_undone(bench: Bench, tmp_path: Path) -> None:
    deploy(bench.session, bench.settings, bench.model("1", QUESTIONS), test_rows=bench.rows)
    before = traffic(bench)
    bench.model("2", QUESTIONS)
    slow = bench.settings.rollout.model_copy(update={"soak_s": HANG_S, "steps": [50, 100]})
    settings = bench.settings.model_copy(update={"rollout": slow})
    (tmp_path / "settings.json").write_text(settings.model_dump_json(), encoding="utf-8")
    command = [sys.executable, "-c", DEPLOY, str(tmp_path / "settings.json"), str(bench.rows)]
    with subprocess.Popen(command, cwd=ROOT) as runner:
        try:

            def half_way() -> bool:
                assert runner.poll() is None
                return sorted(traffic(bench).values()) == [50, 50]

            until(half_way, what="the first step", every_s=0.2)
            assert again(bench).did_nothing  # it is at work
        finally:
            runner.kill()

    done = again(bench)

    assert done.repair is not None
    assert done.repair.outcome == "restored"
    assert traffic(bench) == before
    assert again(bench).did_nothing


@pytest.fixture
def checkout(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Settings in a file for the command, and the files of a GitHub job."""
    text = (ROOT / "mlops.yaml").read_text(encoding="utf-8")
    text = text.replace("name: Phi-3-mini-4k-instruct-ultrachat-200k", f"name: {bench.settings.model.name}")
    text = text.replace("    name: ultrachat-completion\n", f"    name: {bench.settings.endpoint.name}\n")
    (tmp_path / "mlops.yaml").write_text(text, encoding="utf-8")
    monkeypatch.setenv("MLOPS_SETTINGS", str(tmp_path / "mlops.yaml"))
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_OUTPUT", str(tmp_path / "outputs"))
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary"))
    return tmp_path


def outputs(folder: Path) -> dict[str, str]:
    """The step's outputs; the file begins anew."""
    lines = (folder / "outputs").read_text(encoding="utf-8").splitlines()
    (folder / "outputs").unlink()
    return {lines[at].partition("<<")[0]: lines[at + 1] for at in range(0, len(lines), 3)}


def test_the_command_is_red_once_and_does_all_the_rest_as_well(
    bench: Bench, checkout: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    failed = train(bench, "echo the data is gone >&2; exit 3")
    good = train(bench)
    running = train_on(bench)
    try:
        assert cli.main(["reconcile", "--dry-run"]) == 0
        assert outputs(checkout)["version"] == ""

        assert cli.main(["reconcile"]) == 5
        said = capsys.readouterr()
        told = outputs(checkout)
        assert told["version"] == versions(bench)[0]
        assert (told["registered"], told["failed"], told["running"]) == ("1", "1", "1")
        assert "::error::the step" in said.err
        assert running in said.out
        summary = (checkout / "summary").read_text(encoding="utf-8")
        assert "the data is gone" in summary
        assert good in summary

        assert cli.main(["reconcile", "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        assert (found["registered"], found["failed"], found["repair"]) == ([], [], None)
        assert failed not in json.dumps(found)
    finally:
        jobs.cancel(bench.session, running)


def test_an_endpoint_that_cannot_be_looked_after_is_an_error_and_the_rest_is_done(
    bench: Bench, checkout: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: Any) -> None:
        raise AzureError("look up the endpoint: not allowed")

    failed = train(bench, "echo the data is gone >&2; exit 3")
    train(bench)
    monkeypatch.setattr("mlops.reconcile.apply.recover_abandoned", refused)

    assert cli.main(["reconcile"]) == 5
    assert len(versions(bench)) == 1
    assert outputs(checkout)["version"] == ""
    found = jobs.get(bench.session, failed)
    assert found is not None
    assert REPORTED_TAG in found.tags
    capsys.readouterr()
    for _ in range(2):
        assert cli.main(["reconcile"]) == 8
        assert "not allowed" in capsys.readouterr().err


def test_what_wait_has_reported_is_not_reported_again(
    bench: Bench, checkout: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    failed = train(bench, "echo the data is gone >&2; exit 3")

    assert cli.main(["wait", failed]) == 5
    assert "the data is gone" in (checkout / "summary").read_text(encoding="utf-8")
    capsys.readouterr()
    assert cli.main(["reconcile"]) == 0


def test_wait_comes_back(bench: Bench, checkout: Path, capsys: pytest.CaptureFixture[str]) -> None:
    running = train_on(bench)
    try:
        assert cli.main(["wait", running, "--timeout", "2s"]) == 9
        (checkout / "outputs").unlink(missing_ok=True)
        assert cli.main(["wait", running, "--timeout", "2s", "--come-back"]) == 0
        assert outputs(checkout) == {"job": running, "completed": "false", "finished": "false"}
        assert "reconcile" in (checkout / "summary").read_text(encoding="utf-8")
        assert "still Running" in capsys.readouterr().out
    finally:
        jobs.cancel(bench.session, running)


def test_a_lost_connection_is_survived_and_said_once(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlops.azure.errors import UnavailableError
    from mlops.training import wait

    job = train(bench, f"sleep 2; {MODEL}", wait=False)
    real, lost = jobs.get, 4
    said: list[str] = []

    def get(session: Any, name: str) -> Any:
        nonlocal lost
        lost -= 1
        if lost >= 0:
            raise UnavailableError("look up the job: no answer from Azure")
        return real(session, name)

    monkeypatch.setattr(jobs, "get", get)
    monkeypatch.setattr(bench.session.console, "warn", said.append)
    assert wait.wait(bench.session, job, poll_s=0.1).job.is_completed
    assert len(said) == 1
    lost = 10**6
    with pytest.raises(UnavailableError):
        wait.wait(bench.session, job, poll_s=0.1, outage_timeout_s=0.3)


def test_two_pushes_of_the_same_content_meet_at_one_job(home: Path) -> None:
    del home

    def push(number: int) -> dict[str, Any]:
        arguments = ["train", "--detach", "--epochs", "1", "--reason", f"push {number}", "--json"]
        done = subprocess.run([sys.executable, "-m", "mlops", *arguments], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(push, range(2))

    assert first["job"] == second["job"]
    assert first["fingerprint"] == second["fingerprint"]
    later = push(3)
    assert (later["job"], later["reused"]) == (first["job"], True)
