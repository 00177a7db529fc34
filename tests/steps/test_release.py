from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mlops import cleanup, gate, rollout, slots
from mlops.azure import endpoints
from mlops.endpoint import scorer
from mlops.errors import GateFailed, GateUndecided, Interrupted, MlopsError, PreconditionError, UsageError
from mlops.resources import ModelVersion

from .conftest import QUESTIONS, Bench

pytestmark = [
    pytest.mark.slow,
    pytest.mark.xdist_group("release"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # the SDK's own, at each load of an environment
]
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
    with pytest.raises(PreconditionError, match="has not passed the gate"):  # the refused version stands in blue
        rollout.rollback(bench.session, bench.settings, version=None)
    with pytest.raises(PreconditionError, match="has not passed the gate"):
        rollout.rollback(bench.session, bench.settings, version=bench_model(bench, "3"))
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
    assert any("this model cannot be loaded" in line for line in caught.value.details), caught.value.details
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
    found = {item.endpoint: item.delete for item in decisions}
    assert (found[made.endpoint], found[bench.settings.endpoint.name]) == (True, False)

    assert made.endpoint in cleanup.delete(bench.session, decisions)
    assert endpoints.get(bench.session, made.endpoint) is None


@pytest.mark.parametrize("their_traffic", [False, True])
def test_what_was_judged_and_not_what_came_after_gets_the_traffic(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, their_traffic: bool
) -> None:
    """Somebody else deploys into the same slot while the gate is asking."""
    number = 20 + 2 * their_traffic
    deploy(bench, "1", QUESTIONS)
    ours, theirs = bench.model(str(number), QUESTIONS), bench.model(str(number + 1), WRONG)
    before = traffic(bench)
    evaluate = gate.evaluate

    def slow(*arguments: Any, **options: Any) -> gate.Report:
        report = evaluate(*arguments, **options)
        name = bench.settings.endpoint.name
        if their_traffic:
            shares = {options["live"]: 90, options["candidate"]: 10}
            endpoints.set_traffic(bench.session, name, shares)
        else:
            made = slots.Plan(
                endpoint=name, creates_endpoint=False, slot=options["candidate"], live=None, why="", before={}, steps=()
            )  # fmt: skip
            endpoints.deploy(bench.session, rollout.deployment_spec(bench.settings, made, theirs))
        return report

    monkeypatch.setattr(gate, "evaluate", slow)
    with pytest.raises(PreconditionError, match="somebody else"):
        rollout.deploy(bench.session, bench.settings, ours, test_rows=bench.rows)

    assert traffic(bench) == before


def test_an_interrupt_while_traffic_moves_puts_it_back(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    deploy(bench, "1", QUESTIONS)
    ours = bench.model("30", {**QUESTIONS, "extra": "30"})
    before = traffic(bench)
    move = endpoints.set_traffic
    calls: list[dict[str, int]] = []

    def interrupted(session: Any, name: str, shares: dict[str, int]) -> Any:
        calls.append(dict(shares))
        found = move(session, name, shares)
        if len(calls) == 1:
            raise KeyboardInterrupt
        return found

    monkeypatch.setattr(endpoints, "set_traffic", interrupted)
    with pytest.raises(Interrupted, match="traffic is as it was"):
        rollout.deploy(bench.session, bench.settings, ours, test_rows=bench.rows)

    assert len(calls) == 2
    assert traffic(bench) == before


def test_a_gate_that_reaches_nothing_does_not_decide(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    deploy(bench, "1", QUESTIONS)
    ours = bench.model("31", {**QUESTIONS, "extra": "31"})
    before = traffic(bench)
    monkeypatch.setattr(endpoints, "key", lambda *_: "not-the-key")

    with pytest.raises(GateUndecided, match="no request reached"):
        rollout.deploy(bench.session, bench.settings, ours, test_rows=bench.rows)

    assert traffic(bench) == before


@pytest.mark.parametrize("parameters", [{"max_new_token": 3}, {"temperature": 9}])
def test_parameters_that_no_server_takes_are_refused_before_anything_is_deployed(
    bench: Bench, parameters: dict[str, object]
) -> None:
    odd = bench.settings.gate.model_copy(update={"parameters": parameters})

    with pytest.raises(UsageError, match=r"gate\.parameters"):
        rollout.draw_samples(bench.settings.model_copy(update={"gate": odd}), bench.rows)


def test_nothing_to_go_back_to(bench: Bench) -> None:
    with pytest.raises(PreconditionError, match="no endpoint 'nowhere'"):
        rollout.rollback(bench.session, bench.settings, version=None, name="nowhere")
