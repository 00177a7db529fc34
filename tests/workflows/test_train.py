"""A merge: what decides a model trains one and brings it to staging; nothing else starts."""

from __future__ import annotations

import pytest

from tests.workflows.cloud import NO_THRESHOLDS, ROOT, Cloud, settings
from tests.workflows.conftest import machine
from tests.workflows.runner.bridge import Bridge
from tests.workflows.runner.repository import Repository
from tests.workflows.runner.workflows import happen
from tests.workflows.runner.world import World

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300), pytest.mark.xdist_group("workflow-train")]
CHATS = "data/bundled/data/train_gen-00000-of-00001.jsonl"


@pytest.fixture(scope="module")
def world(cloud: Cloud, github: Bridge, tmp_path_factory: pytest.TempPathFactory) -> World:
    place = tmp_path_factory.mktemp("github")
    repository = Repository.of(ROOT, place / "repository", {"mlops.yaml": settings(**NO_THRESHOLDS)})
    return World(
        bridge=github,
        repository=repository.folder,
        place=place / "runs",
        environ={**machine(), **cloud.way()},
        variables=cloud.variables(),
        identity=cloud.identity,
    )


def test_a_merge_of_new_chats_trains_registers_and_deploys_to_staging(world: World, cloud: Cloud) -> None:
    repository = Repository(world.repository)
    chats = (repository.folder / CHATS).read_text(encoding="utf-8")
    runs = happen(world, repository.push({CHATS: "".join(chats.splitlines(keepends=True)[:-1])}))
    assert list(runs) == ["train.yml"]
    run = runs["train.yml"]
    print(run)
    assert run.conclusion == "success", run
