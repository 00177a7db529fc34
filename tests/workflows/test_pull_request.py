"""A pull request: everything that can be known without Azure, for strangers as well.

Two things are not done here, as they are what `make lint` and `make test` do around these tests: the unit-test job
runs one file of the suite instead of all (PYTEST_ADDOPTS, pytest's own variable), and the lint job is left out.
The main job trains for one epoch, without thresholds; tests/integration/test_main_job.py holds its figures.
"""

from __future__ import annotations

import json

import pytest

from tests.support.checkout import ROOT
from tests.workflows.cloud import NO_THRESHOLDS, settings
from tests.workflows.conftest import machine
from tests.workflows.runner.bridge import Bridge
from tests.workflows.runner.repository import Repository
from tests.workflows.runner.workflows import happen, start
from tests.workflows.runner.world import World

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]  # 4 minutes where four processes share two cores
ONE_FILE = "tests/unit/rollout/test_plan.py -p no:cacheprovider"
PAYLOAD = "data/payloads/nested.json"


@pytest.fixture(scope="module")
def world(github: Bridge, tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("github")
    repository = Repository.of(ROOT, folder / "repository", {"mlops.yaml": settings(**NO_THRESHOLDS)})
    return World(
        bridge=github,
        repository=repository.folder,
        folder=folder / "runs",
        environ={
            **machine(),
            "MLOPS_CACHE": str(ROOT / ".mlops" / "cache"),
            "PYTEST_ADDOPTS": ONE_FILE,
            "WORKERS": "0",
        },
        variables={None: {"AZURE_CLIENT_ID": "not-for-strangers"}},
        secrets={"PASSWORD": "not-for-strangers"},
    )


def test_a_bad_payload_is_shown_at_its_line(world: World) -> None:
    repository = Repository(world.repository)
    text = (repository.folder / PAYLOAD).read_text(encoding="utf-8")
    line = next(number for number, each in enumerate(text.splitlines(), 1) if '"role": "user"' in each)
    bad = text.replace('"role": "user"', '"role": "robot"', 1)

    runs = happen(world, repository.pull_request({PAYLOAD: bad}), only=["data"])
    repository.commit({PAYLOAD: text})

    assert list(runs) == ["pr.yml"]
    run = runs["pr.yml"]
    assert run.conclusion == "failure"
    job = run.job("data")
    assert [step.outcome for step in job.steps if "ayload" in step.name] == ["failure"]
    assert job.steps[-1].outcome == "success", "one that failed hides what the others find"
    errors = [each for each in run.annotations if each.level == "error" and each.file]
    assert {(each.file, each.line) for each in errors} == {(PAYLOAD, line)}
    assert "robot" in errors[0].message
    assert "robot" in job.summary


def test_a_broken_setting_is_shown_at_its_line(world: World) -> None:
    repository = Repository(world.repository)
    text = (repository.folder / "mlops.yaml").read_text(encoding="utf-8")
    line = next(number for number, each in enumerate(text.splitlines(), 1) if each.strip().startswith("max_p95_ms"))
    bad = text.replace("max_p95_ms", "max_p59_ms", 1)

    run = happen(world, repository.pull_request({"mlops.yaml": bad}), only=["data"])["pr.yml"]
    repository.commit({"mlops.yaml": text})

    assert run.conclusion == "failure"
    errors = [each for each in run.job("data").steps[2].visible_annotations if each.level == "error"]
    assert [(each.file, each.line) for each in errors] == [("mlops.yaml", line)]


def test_a_pull_request_from_a_fork_is_green_without_any_secret(world: World) -> None:
    repository = Repository(world.repository)
    event = repository.pull_request({"README.md": "a word more\n"}, fork=True)

    runs = happen(world, event, only=["data", "test", "main"])

    assert list(runs) == ["pr.yml"]
    run = runs["pr.yml"]
    assert run.conclusion == "success", run
    assert [job.result for job in run.jobs if job.id == "lint"] == ["skipped"]
    for job in run.every_job():
        assert job.permissions in ({}, {"contents": "read"})
        assert not job.may_ask_for_token
        assert "not-for-strangers" not in job.log
    assert "### Gate ✓ passed" in run.job("main").summary
    assert "| " in run.job("test").step("Coverage").summary
    report = json.loads((run.artifacts / "gate-report-local-1" / "report.json").read_text(encoding="utf-8"))
    assert report["verdict"] == "pass"


def test_a_branch_is_checked_as_a_pull_request_is_and_main_is_not(world: World) -> None:
    repository = Repository(world.repository)
    branch = repository.push({"docs.txt": "one"}, branch="feature/one")
    runs = happen(world, branch, only=[])
    assert list(runs) == ["pr.yml"]
    assert runs["pr.yml"].concurrency == {"group": "check-refs/heads/feature/one", "cancel-in-progress": True}
    assert happen(world, repository.push({"docs.txt": "two"})) == {}


def test_a_clone_without_a_workspace_has_green_nights(world: World) -> None:
    """Its schedules find no variables and do nothing; the long tables need no Azure at all."""
    repository = Repository(world.repository)
    for name, cron in (("reconcile", "13,43 * * * *"), ("cleanup", "37 3 * * *")):
        run = start(world, repository.schedule(cron), f".github/workflows/{name}.yml")
        assert run is not None
        assert run.conclusion == "success", run
        assert {job.step("Set up mlops").outcome for job in run.jobs if job.steps} == {"skipped"}
    night = start(world, repository.schedule("23 2 * * *"), ".github/workflows/nightly.yml")
    assert night is not None
    assert night.conclusion == "success", night
    assert "passed" in night.job("test").step("Test").log
