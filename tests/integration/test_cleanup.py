from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from mlops import cleanup
from mlops.azure import computes, endpoints, models
from mlops.cleanup import apply, inventory
from mlops.cli import main as mlops
from mlops.core.resources import Cluster, Endpoint
from mlops.core.retry import Backoff
from mlops.ledger import Begin, End, Ledger, Outcome
from mlops.local.daemon import client as daemon
from tests.integration.conftest import QUESTIONS, Bench
from tests.support.checkout import ROOT

OURS = {"managed-by": "mlops"}
WEEK = timedelta(days=7)


@pytest.fixture(scope="module")
def home(home: Path) -> Path:
    """Nobody asks these deployments anything, so none needs a process."""
    os.environ.update({"MLOPS_LOCAL_LAZY_START": "1", "MLOPS_LOCAL_FAMILY_VCPUS": "100000"})
    return home


@pytest.fixture
def empty(bench: Bench) -> Iterator[Bench]:
    """A workspace without endpoints, before and after; idle and failed slots have no grace."""
    update = {
        "rollout": bench.settings.rollout.model_copy(update={"grace_h": 0.0}),
        "cleanup": bench.settings.cleanup.model_copy(update={"failed_h": 0.0}),
    }
    bench.settings = bench.settings.model_copy(update=update)
    bench.session.settings = bench.settings
    yield bench
    daemon.request("faults", method="DELETE")
    for found in endpoints.listed(bench.session):
        endpoints.delete(bench.session, found.name)


def fault(**rule: Any) -> None:
    daemon.request("faults", method="POST", body=rule)


def break_deletion(endpoint: str, *, times: int | None) -> None:
    match = {"operation": "endpoint.delete", "resource": endpoint}
    fault(kind="operation", match=match, code="InternalServerError", times=times)


def deploy(bench: Bench, endpoint: str, slot: str, version: str = "1") -> None:
    from azure.ai.ml.entities import CodeConfiguration, Environment, ManagedOnlineDeployment

    model = models.get(bench.session, bench.settings.model.name, version) or bench.model(version, QUESTIONS)
    deployment = ManagedOnlineDeployment(
        name=slot,
        endpoint_name=endpoint,
        model=model.id,
        environment=Environment(name="cleanup", version="1", image="docker.io/library/python:3.12"),
        code_configuration=CodeConfiguration(code=str(bench.settings.deployment.code), scoring_script="score.py"),
        instance_type=bench.settings.deployment.instance_type,
        instance_count=1,
        tags=OURS,
    )
    bench.session.ml.online_deployments.begin_create_or_update(deployment).result()


def make(
    bench: Bench, name: str, *slots: str, age: timedelta = timedelta(days=9), tags: dict[str, str] | None = None
) -> Endpoint:
    created = (datetime.now(UTC) - age).isoformat()
    marks = {**OURS, "mlops-kind": "preview", "mlops-created": created, **(tags or {})}
    endpoints.create(bench.session, name, description="", tags=marks)
    for slot in slots:
        deploy(bench, name, slot)
    return endpoints.set_traffic(bench.session, name, {slots[0]: 100} if slots else {})


def clean(bench: Bench, **options: Any) -> tuple[list[str], Sequence[apply.Result]]:
    found = cleanup.plan(bench.session, older_than=WEEK, **options)
    rules = cleanup.rules(bench.settings, older_than=WEEK)
    return [item.title for item in found.stale], cleanup.apply_decisions(bench.session, found.decisions, rules)


def standing(bench: Bench) -> dict[str, list[str]]:
    return {item.endpoint.name: [slot.name for slot in item.slots] for item in inventory.endpoint_states(bench.session)}


def test_what_is_stale_goes_and_all_else_stays(empty: Bench) -> None:
    lasting = empty.settings.endpoint.name
    make(empty, lasting, "blue", "green", tags={"mlops-kind": "lasting"})
    make(empty, "old-preview", "blue")
    make(empty, "young-preview", "blue", age=timedelta(days=1))
    make(empty, "kept-preview", "blue", "green", tags={"keep": "for the demo"})
    make(empty, "foreign", "blue", "green", tags={"managed-by": "somebody"})
    fault(kind="operation", match={"operation": "deployment.write"}, code="BadArgument", times=None)
    with pytest.raises(Exception, match="as a fault rule wished"):
        deploy(empty, lasting, "red")
    daemon.request("faults", method="DELETE")

    stale, results = clean(empty)

    assert sorted(stale) == sorted(["old-preview", f"{lasting}/green", f"{lasting}/red"])
    assert [result.outcome for result in results] == ["done"] * 3
    assert standing(empty) == {
        lasting: ["blue"],
        "young-preview": ["blue"],
        "kept-preview": ["blue", "green"],
        "foreign": ["blue", "green"],
    }
    assert clean(empty) == ([], [])


def test_one_that_fails_does_not_stop_the_others(empty: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apply, "BACKOFF", Backoff(first_s=0.1, longest_s=0.1))
    for number in range(4):
        make(empty, f"old-{number}")
    break_deletion("old-2", times=None)

    _, results = clean(empty)

    assert {result.decision.name: result.outcome for result in results} == {
        "old-0": "done",
        "old-1": "done",
        "old-2": "failed",
        "old-3": "done",
    }
    error = cleanup.failure(results)
    assert error is not None
    assert error.exit_code == 8
    assert list(standing(empty)) == ["old-2"]


def test_an_operation_that_fails_once_is_asked_for_again(empty: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apply, "BACKOFF", Backoff(first_s=0.1, longest_s=0.1))
    make(empty, "old-preview")
    break_deletion("old-preview", times=1)

    assert [result.outcome for result in clean(empty)[1]] == ["done"]


def test_what_is_gone_already_is_done(empty: Bench) -> None:
    make(empty, "old-preview", "blue")
    found = cleanup.plan(empty.session, older_than=WEEK)
    endpoints.delete(empty.session, "old-preview")

    results = cleanup.apply_decisions(empty.session, found.decisions, cleanup.rules(empty.settings, older_than=WEEK))

    assert [result.outcome for result in results] == ["done"]


def test_what_was_tagged_keep_meanwhile_is_spared(empty: Bench) -> None:
    make(empty, "old-preview")
    found = cleanup.plan(empty.session, older_than=WEEK)
    entity = empty.session.ml.online_endpoints.get("old-preview")
    entity.tags["keep"] = "please"
    empty.session.ml.online_endpoints.begin_create_or_update(entity).result()

    results = cleanup.apply_decisions(empty.session, found.decisions, cleanup.rules(empty.settings, older_than=WEEK))

    assert [(result.outcome, result.why) for result in results] == [("spared", "tagged keep")]


def test_a_rollout_under_way_protects_its_slots(empty: Bench) -> None:
    lasting = empty.settings.endpoint.name
    make(empty, lasting, "blue", "green", tags={"mlops-kind": "lasting"})
    found = cleanup.plan(empty.session, older_than=WEEK)
    assert [item.title for item in found.stale] == [f"{lasting}/green"]

    with Ledger(empty.session, lasting).acquire(action="deploy") as lock:
        lock.write(Begin(model="chat", version="2", before={"blue": 100}))
        assert clean(empty) == ([], [])
        results = cleanup.apply_decisions(
            empty.session, found.decisions, cleanup.rules(empty.settings, older_than=WEEK)
        )
        assert [result.outcome for result in results] == ["spared"]
        assert "is being changed by" in results[0].why
    assert clean(empty) == ([], [])  # it has no end

    with Ledger(empty.session, lasting).acquire(action="deploy") as lock:
        lock.write(Begin(before={"blue": 100}))
        lock.write(End(outcome=Outcome.RECOVERED, traffic={"blue": 100}))
    assert clean(empty)[0] == [f"{lasting}/green"]


def test_versions_beyond_the_newest_are_archived(empty: Bench) -> None:
    name = empty.settings.model.name
    for version in ("1", "2", "3", "4"):
        empty.model(version, QUESTIONS)
        found = models.get(empty.session, name, version)
        assert found is not None
        models.tag(empty.session, found, OURS)
    make(empty, "young-preview", "blue", age=timedelta(days=1))

    assert clean(empty)[0] == []
    stale, results = clean(empty, keep_versions=2)

    assert stale == [f"{name}:2"]
    assert [result.outcome for result in results] == ["done"]
    assert [version.version for version in models.versions(empty.session, name)] == ["4", "3", "1"]
    assert models.get(empty.session, name, "2") is not None
    assert clean(empty, keep_versions=2) == ([], [])


def test_an_idle_cluster_is_scaled_down(empty: Bench) -> None:
    wanted = empty.settings.compute.model_copy(update={"min_nodes": 2, "max_nodes": 4})
    computes.create(empty.session, wanted)

    assert clean(empty)[0] == []
    stale, results = clean(empty, scale_down=True)

    assert (stale, [result.outcome for result in results]) == ([wanted.name], ["done"])
    found = computes.get(empty.session, wanted.name)
    assert isinstance(found, Cluster)
    assert (found.min_nodes, found.max_nodes, found.tags) == (0, 4, OURS)
    assert clean(empty, scale_down=True) == ([], [])


@pytest.fixture
def settings_file(empty: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    tree = yaml.safe_load((ROOT / "mlops.yaml").read_text())
    tree["targets"]["local"]["endpoint"] = {"name": empty.settings.endpoint.name}
    tree["targets"]["local"]["rollout"]["grace_h"] = 0
    place = tmp_path / "settings.yaml"
    place.write_text(yaml.safe_dump(tree))
    monkeypatch.setenv("MLOPS_SETTINGS", str(place))
    return place


def test_the_command_shows_first_and_deletes_with_yes(
    empty: Bench,
    settings_file: Path,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lasting = empty.settings.endpoint.name
    make(empty, lasting, "blue", "green", tags={"mlops-kind": "lasting"})
    make(empty, "ultrachat-completion-1700000000", "blue")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary.md"))

    assert mlops(["cleanup"]) == 0
    shown = capsys.readouterr()
    assert "nothing was deleted; --yes deletes" in shown.err
    *lines, total = shown.out.splitlines()
    assert all(len(line) <= 80 for line in lines)
    assert total.endswith("saves about 5,363 USD a month, an estimate by cleanup.prices_per_hour")
    assert len(standing(empty)) == 2

    assert mlops(["cleanup", "--yes", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["totals"]["done"] == 2
    assert result["totals"]["saving_per_month"] == pytest.approx(2 * 730 * 3.673, abs=0.1)
    assert {item["title"]: item["action"] for item in result["decisions"]} == {
        lasting: "keep",
        f"{lasting}/blue": "keep",
        f"{lasting}/green": "delete",
        "ultrachat-completion-1700000000": "delete",
    }
    assert "| keep | " in (tmp_path / "summary.md").read_text()

    assert mlops(["cleanup", "--yes"]) == 0
    assert standing(empty) == {lasting: ["blue"]}


def test_the_command_ends_with_8_where_one_fails(
    empty: Bench, settings_file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(apply, "ATTEMPTS", 1)
    make(empty, "old-1")
    make(empty, "old-2")
    break_deletion("old-2", times=None)

    assert mlops(["cleanup", "--yes", "--json"]) == 8
    shown = capsys.readouterr()
    assert json.loads(shown.out)["totals"] | {"done": 1, "failed": 1} == json.loads(shown.out)["totals"]
    assert "1 of 2 could not be cleaned up" in shown.err


def test_all_endpoints_are_listed(empty: Bench, settings_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make(empty, "ultrachat-completion-1700000000", "blue", "green")
    make(empty, "foreign", tags={"managed-by": "somebody"})

    assert mlops(["endpoint", "list", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["endpoints"]

    assert [(row["endpoint"], row["kind"], row["traffic"]) for row in rows] == [
        ("foreign", "other", {}),
        ("ultrachat-completion-1700000000", "preview", {"blue": 100}),
    ]
    assert [slot["name"] for slot in rows[1]["slots"]] == ["blue", "green"]
    assert mlops(["endpoint", "list"]) == 0
    shown = capsys.readouterr().out
    assert "preview  9 d  blue 100 % 1" in shown
    assert all(len(line) <= 80 for line in shown.splitlines())
