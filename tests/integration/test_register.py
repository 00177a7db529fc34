"""A model is registered if its evaluation allows it, or if a person answers for it."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest

from mlops import cli, reconcile
from mlops.azure import jobs
from mlops.azure import models as azure_models
from mlops.training import register
from mlops.training.evaluation import EvaluationFailed
from tests.support.checkout import ROOT
from tests.support.waiting import until

from .conftest import Bench
from .test_reconcile import MODEL, again, checkout, job_named, outputs, versions

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # the SDK's own, at each load of an environment
]
__all__ = ["checkout"]
SCORES = {
    "base_loss": 1.5,
    "tuned_loss": 1.2,
    "base_exact_match": 0.2,
    "tuned_exact_match": 0.9,
    "base_empty": 0.0,
    "tuned_empty": 0.0,
    "base_repetition": 0.0,
    "tuned_repetition": 0.0,
}


def train(bench: Bench, **scores: float) -> str:
    """A training of two steps, whose evaluation writes its scores and a report and logs nothing to MLflow."""
    written = json.dumps({**SCORES, **scores})
    place = "${{outputs.evaluation_output}}"
    lines = f"echo '{written}' > {place}/scores.json && echo '<p>compared</p>' > {place}/report.html"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from azure.ai.ml import Output, command, dsl

        finetune = command(
            name="finetune",
            command=MODEL,
            environment="azureml:not-built-here:1",
            outputs={"model": Output(type="mlflow_model")},
        )
        compare = command(
            name="evaluate",
            command=lines,
            environment="azureml:not-built-here:1",
            outputs={"evaluation_output": Output(type="uri_folder")},
        )

        @dsl.pipeline()  # type: ignore[untyped-decorator]
        def pipeline() -> dict[str, Any]:
            made = finetune()
            evaluate = compare()
            evaluate.name = "evaluate"
            return {jobs.OUTPUT: made.outputs.model}

        job = pipeline()
        job.settings.default_compute = "serverless"
        job.tags = {"managed-by": "mlops", "model": bench.settings.model.name}
        name = str(bench.session.ml.jobs.create_or_update(job, experiment_name=bench.settings.experiment).name)
    until(lambda: not job_named(bench, name).is_running, what=f"the end of {name}", every_s=0.1)
    assert job_named(bench, name).is_completed
    return name


def test_what_falls_short_is_refused_with_the_table_until_a_person_accepts_it(
    bench: Bench, checkout: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = train(bench, tuned_loss=1.6, tuned_exact_match=0.5)

    assert cli.main(["register", job]) == 5
    said = capsys.readouterr()
    assert "exact match" in said.err
    assert "change ≤ +0.0000" in said.err
    assert f"mlops register {job} --accept" in said.err
    assert "failed" in (checkout / "summary").read_text(encoding="utf-8")
    assert versions(bench) == []
    assert again(bench).did_nothing  # whoever called register knows
    assert cli.main(["register", job, "--accept", " "]) == 2
    capsys.readouterr()

    assert cli.main(["register", job, "--accept", "the test split\n is wrong", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)

    assert (found["made"], found["evaluation"]["verdict"]) == (True, "failed")
    (version,) = azure_models.versions(bench.session, register.model_name(bench.settings))
    assert version.tags["evaluation"] == "failed"
    assert version.tags["accepted"] == "the test split is wrong"
    assert version.tags["accepted-by"]
    assert version.tags["tuned_exact_match"] == "0.5"
    assert again(bench).deploy.version == version.version
    assert cli.main(["register", job]) == 0  # what has a version keeps it
    assert outputs(checkout)["version"] == version.version


def test_reconcile_tells_once_and_registers_when_the_limits_allow_it(
    bench: Bench, checkout: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job, good = train(bench, tuned_exact_match=0.5), train(bench)

    assert cli.main(["reconcile"]) == 5
    said = capsys.readouterr()
    assert "0.5000" in said.err
    assert "it failed its evaluation" in " ".join(said.out.split())
    assert cli.main(["reconcile", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert [item["job"] for item in document["refused"]] == [job]
    assert (document["failed"], document["problems"]) == ([], [])
    (version,) = azure_models.versions(bench.session, register.model_name(bench.settings))
    assert (version.tags["job"], version.tags["evaluation"]) == (good, "passed")
    assert outputs(checkout)["version"] == version.version

    training = bench.settings.training
    limits = training.evaluation.model_copy(update={"exact_match": type(training.evaluation.exact_match)(min=0.5)})
    lower = training.model_copy(update={"evaluation": limits})
    done = reconcile.reconcile(bench.session, bench.settings.model_copy(update={"training": lower}))
    assert [found.name for found, _ in done.registered] == [job]
    assert len(versions(bench)) == 2


def test_a_pipeline_that_evaluates_nothing_is_warned_of_or_refused(
    bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    from mlops.core.console import Console

    from .test_reconcile import train as without

    job = without(bench)
    required = bench.settings.training.evaluation.model_copy(update={"required": True})
    training = bench.settings.training.model_copy(update={"evaluation": required})
    with pytest.raises(EvaluationFailed, match="nothing was evaluated"):
        register.register(bench.session, bench.settings.model_copy(update={"training": training}), job)

    quiet = bench.session.console
    bench.session.console = Console()
    try:
        found = register.register(bench.session, bench.settings, job)
    finally:
        bench.session.console = quiet
    assert "nothing was evaluated" in capsys.readouterr().err
    assert found.made
    assert found.model.tags["evaluation"] == "not evaluated"


def test_metrics_shows_the_judgement_and_where_the_report_is(
    bench: Bench, checkout: Path, capsys: pytest.CaptureFixture[str], home: Path
) -> None:
    del checkout
    job = train(bench, tuned_loss=1.6)
    assert cli.main(["metrics", job]) == 0
    shown = capsys.readouterr().out
    assert "report:" in shown
    assert "evaluation: failed" in shown

    assert cli.main(["metrics", job, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert Path(found["report"]).read_text(encoding="utf-8") == "<p>compared</p>\n"
    assert Path(found["report"]).is_relative_to(home)
    assert found["evaluation"]["verdict"] == "failed"
    assert found["metrics"]["tuned_loss"] == 1.6
    assert ROOT not in Path(found["report"]).parents
