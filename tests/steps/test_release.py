from __future__ import annotations

import json
from pathlib import Path

import pytest

from mlops import cleanup, rollout
from mlops.azure import endpoints
from mlops.endpoint import scorer
from mlops.errors import GateFailed, MlopsError, PreconditionError
from mlops.resources import ModelVersion

from .conftest import QUESTIONS, Bench

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("release")]
WRONG = dict.fromkeys(QUESTIONS, "something else entirely")


def traffic(bench: Bench) -> dict[str, int]:
    found = endpoints.get(bench.session, bench.settings.endpoint.name)
    assert found is not None
    return {name: share for name, share in found.traffic.items() if share}


def deploy(bench: Bench, version: str, answers: dict[str, str], **options: str) -> rollout.Outcome:
    model = bench.model(version, answers)
    return rollout.deploy(bench.session, bench.settings, model, test_rows=bench.rows, **options)  # type: ignore[arg-type]


def payload(question: str) -> dict[str, object]:
    return {"input_data": {"input_string": [{"role": "user", "content": question}], "parameters": {}}, "params": {}}


def test_a_release_its_successor_its_failures_and_the_way_back(bench: Bench) -> None:
    """One story, since each release stands on the one before."""
    first = deploy(bench, "1", QUESTIONS)
    assert (first.slot, first.traffic, first.before) == ("blue", {"blue": 100}, {})
    assert first.report is not None
    assert first.report.candidate.exact_match == 1.0

    second = deploy(bench, "2", {**QUESTIONS, "extra": "2"})
    assert (second.slot, second.traffic, second.before) == ("green", {"green": 100}, {"blue": 100})
    assert second.report is not None
    assert second.report.live is not None
    assert second.report.live.slot == "blue"

    same = rollout.deploy(bench.session, bench.settings, bench_model(bench, "2"), test_rows=bench.rows)
    assert same.changed is False

    wrong_answers(bench)
    a_model_that_raises(bench)
    a_model_that_does_not_load(bench)
    the_header_stays_with_its_request(bench)

    back = rollout.rollback(bench.session, bench.settings, version=bench_model(bench, "2"))
    assert back.changed is False
    endpoint = endpoints.get(bench.session, bench.settings.endpoint.name)
    assert endpoint is not None
    assert endpoint.tags["managed-by"] == "mlops"  # traffic was changed four times, the rest of the endpoint never

    again = rollout.rollback(bench.session, bench.settings, version=bench_model(bench, "1"))
    assert (again.slot, again.skipped_gate is not None) == ("blue", True)  # no slot held it any more
    assert traffic(bench) == {"blue": 100}
    assert rollout.rollback(bench.session, bench.settings, version=None).slot == "green"

    a_preview_is_deleted_and_the_lasting_endpoint_is_not(bench)


def bench_model(bench: Bench, version: str) -> ModelVersion:
    from mlops.azure import models

    found = models.get(bench.session, bench.settings.model.name, version)
    assert found is not None
    return found


def wrong_answers(bench: Bench) -> None:
    with pytest.raises(GateFailed) as caught:
        deploy(bench, "3", WRONG)

    assert traffic(bench) == {"green": 100}
    report = Path(next(line for line in caught.value.details if "report" in line).rpartition(" ")[2])
    document = json.loads((report / "report.json").read_text(encoding="utf-8"))
    assert document["candidate"]["exact_match"] == 0.0
    assert document["live"]["exact_match"] == 1.0
    assert {check["name"]: check["passed"] for check in document["checks"]}["exact match − live"] is False
    assert (report / "server.log").stat().st_size > 0
    assert (report / "storage.log").stat().st_size > 0


def a_model_that_raises(bench: Bench) -> None:
    with pytest.raises(GateFailed) as caught:
        deploy(bench, "4", {"raise": "yes"})

    assert traffic(bench) == {"green": 100}
    assert any("success rate is 0" in line for line in caught.value.details)


def a_model_that_does_not_load(bench: Bench) -> None:
    with pytest.raises(MlopsError) as caught:
        deploy(bench, "5", {"crash": "yes"})

    assert caught.value.exit_code in (3, 8)
    assert traffic(bench) == {"green": 100}


def the_header_stays_with_its_request(bench: Bench) -> None:
    deploy_again = rollout.deploy(
        bench.session, bench.settings, bench.model("6", QUESTIONS), test_rows=bench.rows, skip_gate="a slot to name"
    )
    assert deploy_again.slot == "blue"
    endpoints.set_traffic(bench.session, bench.settings.endpoint.name, {"green": 100})
    asker = scorer(bench.session, bench.settings.endpoint.name, timeout_s=30)

    named = asker.ask(payload("question 1"), slot="blue")
    live = asker.ask(payload("question 1"))

    assert (named.slot, live.slot) == ("blue", "green")
    assert named.texts == live.texts == (QUESTIONS["question 1"],)
    assert asker.ask(payload("nobody knows")).ok is False
    missing = asker.ask(payload("question 1"), slot="purple")
    assert missing.status == 404


def a_preview_is_deleted_and_the_lasting_endpoint_is_not(bench: Bench) -> None:
    made = rollout.deploy(bench.session, bench.settings, bench_model(bench, "2"), test_rows=bench.rows, preview=True)
    decisions = cleanup.plan(bench.session, older_than=cleanup.age_of("0s"))
    assert {item.endpoint: item.delete for item in decisions} == {made.endpoint: True, "ultrachat-completion": False}

    assert cleanup.delete(bench.session, decisions) == [made.endpoint]
    assert endpoints.get(bench.session, made.endpoint) is None


def test_nothing_to_go_back_to(bench: Bench) -> None:
    with pytest.raises(PreconditionError, match="no endpoint 'nowhere'"):
        rollout.rollback(bench.session, bench.settings, version=None, name="nowhere")
