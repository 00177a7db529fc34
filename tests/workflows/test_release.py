"""Deploys, rollbacks and cleanups that somebody starts by hand, one after another on one endpoint."""

from __future__ import annotations

import json

import pytest

from tests.support.checkout import ROOT
from tests.workflows import quick
from tests.workflows.cloud import Cloud, settings
from tests.workflows.conftest import machine
from tests.workflows.runner.bridge import Bridge
from tests.workflows.runner.record import Run
from tests.workflows.runner.repository import Repository
from tests.workflows.runner.workflows import start
from tests.workflows.runner.world import World

pytestmark = [pytest.mark.slow]


@pytest.fixture(scope="module")
def world(cloud: Cloud, github: Bridge, tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("github")
    files = quick.components() | {"mlops.yaml": settings(**quick.SETTINGS)}
    repository = Repository.of(ROOT, folder / "repository", {name: text for name, text in files.items() if text})
    world = World(
        bridge=github,
        repository=repository.folder,
        folder=folder / "runs",
        environ={**machine(), **cloud.way()},
        variables=cloud.variables(),
        identity=cloud.identity,
    )
    for version in ("1001", "1002"):
        cloud.register(world, version, quick.table(folder / version))
    return world


def by_hand(world: World, name: str, **inputs: str) -> Run:
    run = start(world, Repository(world.repository).dispatch(**inputs), f".github/workflows/{name}.yml")
    assert run is not None
    return run


@pytest.fixture
def released(world: World, cloud: Cloud) -> str:
    """The slot that is live, another beside it; made here where a test runs without those before it."""
    for version in () if cloud.traffic(world) else ("1001", "1002"):
        assert by_hand(world, "deploy", version=version).conclusion == "success"
    (slot,) = cloud.traffic(world)
    return slot


def refused(world: World, cloud: Cloud) -> str:
    """A model that knows no answer."""
    if not (folder := world.folder / "1003").exists():
        cloud.register(world, "1003", quick.table(folder, good=False))
    return "1003"


def test_a_deploy_by_hand_passes_the_gate_and_names_the_way_back(world: World, cloud: Cloud) -> None:
    first = by_hand(world, "deploy", version="1001")
    assert first.conclusion == "success", first
    assert cloud.traffic(world) == {"blue": 100}

    second = by_hand(world, "deploy", steps="50,100", soak="0.2s")

    assert second.conclusion == "success", second
    job = second.job("deploy")
    assert job.outputs["version"] == "1002"  # the newest, as no version is given
    assert cloud.traffic(world) == {"green": 100}
    assert (job.environment, job.deployment) == ("staging", True)
    assert job.url is not None
    assert job.url.startswith("https://")
    assert job.concurrency == {"group": "deploy-staging", "queue": "max"}
    for expected in ("1001", "1002", "### Gate ✓ passed", "```mermaid", "mlops rollback"):
        assert expected in job.summary
    assert (second.artifacts / "gate-report-staging-1" / "report.md").is_file()
    assert list((second.artifacts / "gate-report-staging-1").glob("*.png"))


def test_a_dry_run_and_a_preview_leave_the_endpoint_alone(world: World, cloud: Cloud, released: str) -> None:
    before = cloud.traffic(world)
    dry = by_hand(world, "deploy", version="1001", dry_run="true")
    assert dry.conclusion == "success", dry
    assert dry.job("deploy").deployment is False
    preview = by_hand(world, "deploy", version="1001", preview="true")
    assert preview.conclusion == "success", preview
    assert preview.job("deploy").deployment is False
    assert preview.job("deploy").concurrency["group"] != "deploy-staging"
    assert preview.job("deploy").outputs["endpoint"].startswith("ultrachat-completion-")
    assert cloud.traffic(world) == before


def test_a_deploy_to_production_shows_what_staging_runs(world: World, released: str) -> None:
    run = by_hand(world, "deploy", target="production", version="1001", dry_run="true")
    assert run.conclusion == "success", run
    staging = run.job("staging")
    assert (staging.environment, staging.deployment) == ("staging", False)
    assert "1002" in staging.summary + staging.log


def test_a_gate_that_fails_is_red_and_leaves_the_traffic(world: World, cloud: Cloud, released: str) -> None:
    before = cloud.traffic(world)
    refused(world, cloud)

    run = by_hand(world, "deploy")

    assert run.conclusion == "failure"
    step = run.job("deploy").step("deploy")
    assert step.code == 6
    assert any(each.level == "error" and "1003" in each.message for each in step.annotations)
    assert cloud.traffic(world) == before
    report = json.loads((run.artifacts / "gate-report-staging-1" / "report.json").read_text(encoding="utf-8"))
    assert report["verdict"] == "fail"
    assert "exact match" in run.job("deploy").summary


def test_an_emergency_needs_its_reason_on_record(world: World, cloud: Cloud, released: str) -> None:
    run = by_hand(world, "deploy", version=refused(world, cloud), skip_gate="the old one is worse")
    assert run.conclusion == "success", run
    assert released not in cloud.traffic(world)
    assert "the old one is worse" in json.dumps(cloud.mlops(world, "endpoint", "history"))


def test_a_rollback_puts_the_version_before_back_into_traffic(world: World, cloud: Cloud, released: str) -> None:
    run = by_hand(world, "rollback", target="staging", reason="answers are nonsense")

    assert run.conclusion == "success", run
    job = run.job("rollback")
    (slot,) = cloud.traffic(world)
    assert slot != released
    assert "1002" in job.summary
    assert job.concurrency["group"] not in ("deploy-staging",)
    assert job.url is not None
    assert "answers are nonsense" in json.dumps(cloud.mlops(world, "endpoint", "history"))


def test_cleanup_shows_first_and_deletes_when_told(world: World, cloud: Cloud, released: str) -> None:
    if len(cloud.endpoints(world)) == 1:
        by_hand(world, "deploy", version="1001", preview="true")
    before = cloud.endpoints(world)
    assert len(before) == 2, before
    only = {"targets": '["staging"]', "older_than": "0s"}
    dry = by_hand(world, "cleanup", **only)
    assert dry.conclusion == "success", dry
    assert [job.matrix for job in dry.jobs] == [{"target": "staging"}]
    assert all(name in dry.summary for name in before)
    assert cloud.endpoints(world) == before

    wet = by_hand(world, "cleanup", dry_run="false", **only)

    assert wet.conclusion == "success", wet
    assert cloud.endpoints(world) == ["ultrachat-completion"]
    assert cloud.traffic(world) == {released: 100}
    assert "USD" in wet.summary
