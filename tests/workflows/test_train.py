"""A merge: what decides a model trains one and brings it to staging; what outlives its workflow is gone on with."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.checkout import ROOT
from tests.workflows import quick
from tests.workflows.cloud import NO_THRESHOLDS, Cloud, settings
from tests.workflows.conftest import machine
from tests.workflows.runner.bridge import Bridge
from tests.workflows.runner.record import Run
from tests.workflows.runner.repository import Repository
from tests.workflows.runner.workflows import happen, start
from tests.workflows.runner.world import World

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]  # 5 minutes where four processes share two cores
CHATS = "data/bundled/data/train_gen-00000-of-00001.jsonl"
TRAIN, RECONCILE = ".github/workflows/train.yml", ".github/workflows/reconcile.yml"


@pytest.fixture(scope="module")
def world(cloud: Cloud, github: Bridge, tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("github")
    repository = Repository.of(ROOT, folder / "repository", {"mlops.yaml": settings(**NO_THRESHOLDS)})
    return World(
        bridge=github,
        repository=repository.folder,
        folder=folder / "runs",
        environ={**machine(), **cloud.way()},
        variables=cloud.variables(),
        identity=cloud.identity,
    )


def fewer(world: World, lines: int) -> dict[str, str | None]:
    """The chats without their last lines: other content, another model."""
    text = (world.repository / CHATS).read_text(encoding="utf-8")
    return {CHATS: "".join(text.splitlines(keepends=True)[:-lines])}


def merged(world: World, files: dict[str, str | None]) -> Run:
    runs = happen(world, Repository(world.repository).push(files))
    assert list(runs) == ["train.yml"]
    return runs["train.yml"]


def test_a_merge_of_documentation_starts_nothing(world: World) -> None:
    repository = Repository(world.repository)
    assert happen(world, repository.push({"README.md": "# other words\n"})) == {}
    assert happen(world, repository.push({"data/README.md": "words\n", "mlops/new.py": "NEW = 1\n"})) == {}
    documents = ("components/README.md", "environments/finetune/README.md", "CHANGELOG.md", ".github/CONTRIBUTING.md")
    assert happen(world, repository.push(dict.fromkeys(documents, "words\n"))) == {}


def test_a_merge_of_new_chats_trains_registers_and_deploys_to_staging_once(world: World, cloud: Cloud) -> None:
    run = merged(world, fewer(world, 1))

    assert run.conclusion == "success", run
    train, deploy = run.job("train"), run.job("deploy/deploy")
    assert (train.environment, train.deployment) == ("staging", False)
    assert train.concurrency == {"group": "train-staging", "queue": "max"}
    assert train.outputs["finished"] == "true"
    assert run.job("reconcile").result == "skipped"
    assert run.job("deploy/staging").result == "skipped"
    assert deploy.concurrency == {"group": "deploy-staging", "queue": "max"}
    assert deploy.deployment is True
    assert deploy.url is not None
    assert deploy.url.startswith("https://")
    assert "### Gate ✓ passed" in deploy.summary
    assert "mermaid" in deploy.summary
    assert (run.artifacts / "gate-report-staging-1" / "report.json").is_file()
    assert all("ey" + "J" not in job.log for job in run.every_job()), "a token stands in the log"
    assert cloud.traffic(world) == {"blue": 100}
    assert deploy.outputs["version"] == train.outputs["version"]
    tags = cloud.tags(world, train.outputs["version"])
    assert tags["actor"] == "ada"
    assert tags["commit"] == Repository(world.repository).head
    assert tags["run-url"] == "https://github.com/acme/chat/actions/runs/" + str(9000 + run.number)

    # settings that train nothing buy nothing
    text = (world.repository / "mlops.yaml").read_text(encoding="utf-8")

    again = merged(world, {"mlops.yaml": text.replace("older_than_days: 7", "older_than_days: 8")})

    assert again.conclusion == "success", again
    assert again.job("train").step("submit").outputs["reused"] == "true"
    assert "was live already" in again.job("deploy/deploy").log
    assert cloud.traffic(world) == {"blue": 100}


def test_a_training_that_fails_is_red_and_shows_the_failing_components_log(world: World, cloud: Cloud) -> None:
    failing = "echo 'loss is nan in step 17' && exit 3"
    files = quick.components(finetune=failing) | {"mlops.yaml": settings(**quick.SETTINGS)}

    run = merged(world, files)

    assert run.conclusion == "failure", run
    train = run.job("train")
    assert train.step("wait").code == 5
    assert train.step("register").outcome == "skipped"
    assert run.job("deploy").result == "skipped"
    assert "loss is nan in step 17" in train.summary
    assert "finetune" in train.summary
    again = start(world, Repository(world.repository).schedule("13,43 * * * *"), RECONCILE)
    assert again is not None
    assert again.conclusion == "success", again
    assert again.job("deploy").result == "skipped"


def test_reconcile_goes_on_where_wait_gave_up(world: World, cloud: Cloud, tmp_path: Path) -> None:
    before = cloud.traffic(world)
    go_on = tmp_path / "go-on"
    waiting = f"while [ ! -e {go_on} ]; do sleep 0.1; done; {quick.COMMANDS['finetune']}"
    repository = Repository(world.repository)
    repository.commit(quick.components(finetune=waiting) | {"mlops.yaml": settings(**quick.SETTINGS)})

    run = start(world, repository.dispatch(wait="1s", reason="a long one", epochs="2"), TRAIN)

    assert run is not None
    assert run.conclusion == "success", run
    train = run.job("train")
    assert train.outputs == {"finished": "false", "version": ""}
    assert "reconcile" in train.summary
    assert train.step("register").outcome == "skipped"
    assert run.job("deploy").result == "skipped"
    assert run.job("reconcile/reconcile").result == "success"
    assert run.job("reconcile/deploy").result == "skipped"
    assert cloud.traffic(world) == before

    go_on.touch()
    job = train.step("submit").outputs["job"]
    cloud.mlops(world, "wait", job)
    first = start(world, repository.schedule("13,43 * * * *"), RECONCILE)
    assert first is not None
    assert first.conclusion == "success", first
    version = first.job("reconcile").outputs["version"]
    assert version
    assert first.job("deploy/deploy").outputs["version"] == version
    assert cloud.traffic(world) != before
    assert cloud.tags(world, version)["reason"] == "a long one"

    second = start(world, repository.schedule("13,43 * * * *"), RECONCILE)
    assert second is not None
    assert second.job("reconcile").outputs["version"] == ""
    assert second.job("deploy").result == "skipped"
