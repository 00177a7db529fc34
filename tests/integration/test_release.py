from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mlops import gate
from mlops.azure import endpoints
from mlops.core.errors import GateFailed, GateUndecided, Interrupted, MlopsError, PreconditionError, UsageError
from mlops.core.resources import ModelVersion
from mlops.ledger import Ledger, history
from mlops.machines.probes import probes
from mlops.rollout import plan
from mlops.rollout.deploy import deploy as deploy_version
from mlops.rollout.result import RolloutResult
from mlops.rollout.rollback import rollback
from mlops.rollout.slot import deployment_spec, draw_samples
from mlops.scoring.client import scorer
from tests.support.waiting import HANG_S

from .conftest import QUESTIONS, Bench

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # the SDK's own, at each load of an environment
]
WRONG = dict.fromkeys(QUESTIONS, "something else entirely")


def traffic(bench: Bench) -> dict[str, int]:
    found = endpoints.get(bench.session, bench.settings.endpoint.name)
    assert found is not None
    return {name: share for name, share in found.traffic.items() if share}


def deploy(bench: Bench, version: str, answers: dict[str, str], **options: str) -> RolloutResult:
    model = bench.model(version, answers)
    return deploy_version(bench.session, bench.settings, model, test_rows=bench.rows, **options)  # type: ignore[arg-type]


def payload(question: str) -> dict[str, object]:
    return {"input_data": {"input_string": [{"role": "user", "content": question}], "parameters": {}}, "params": {}}


def test_a_release_its_successor_its_failures_and_the_way_back(bench: Bench) -> None:
    """One story, since each release stands on the one before."""
    first = deploy(bench, "1", QUESTIONS)
    assert (first.slot, first.traffic, first.before) == ("blue", {"blue": 100}, {})
    assert first.report is not None
    assert first.report.candidate.scores["exact_match"] == 1.0

    second = deploy(bench, "2", {**QUESTIONS, "extra": "2"})
    assert (second.slot, second.traffic, second.before) == ("green", {"green": 100}, {"blue": 100})
    assert second.report is not None
    assert second.report.live is not None
    assert second.report.live.slot == "blue"
    assert [(soak.share, soak.verdict) for soak in second.report.soaks] == [(50, "pass"), (100, "pass")]
    assert {slot.slot for slot in second.report.soaks[0].slots} == {"blue", "green"}
    assert second.replaced == f"{bench.settings.model.name}:1"

    same = deploy_version(bench.session, bench.settings, bench_model(bench, "2"), test_rows=bench.rows)
    assert same.changed is False

    wrong_answers(bench)
    a_model_that_raises(bench)
    a_model_that_does_not_load(bench)
    the_header_stays_with_its_request(bench)

    back = rollback(bench.session, bench.settings, version=bench_model(bench, "2"))
    assert back.changed is False
    endpoint = endpoints.get(bench.session, bench.settings.endpoint.name)
    assert endpoint is not None
    assert endpoint.tags["managed-by"] == "mlops"  # traffic was changed four times, the rest of the endpoint never

    again = rollback(bench.session, bench.settings, version=bench_model(bench, "1"))
    assert (again.slot, again.skipped_gate is not None) == ("blue", True)  # no slot held it any more
    assert traffic(bench) == {"blue": 100}
    before = rollback(bench.session, bench.settings, version=None)
    assert (before.slot, before.version, traffic(bench)) == ("green", "2", {"green": 100})
    the_history_tells_it_all(bench)

    a_preview_has_an_endpoint_of_its_own(bench)


def the_history_tells_it_all(bench: Bench) -> None:
    found = history(Ledger(bench.session, bench.settings.endpoint.name).read())[::-1]

    assert [(entry.action, entry.version, entry.outcome) for entry in found] == [
        ("deploy", "1", "released"),
        ("deploy", "2", "released"),
        ("deploy", "2", "unchanged"),
        ("deploy", "3", "refused"),
        ("rollback", "3", "failed"),
        ("deploy", "4", "refused"),
        ("deploy", "5", "failed"),
        ("deploy", "6", "released"),
        ("rollback", "2", "unchanged"),
        ("rollback", "1", "released"),
        ("rollback", "2", "rolled_back"),
    ]
    assert found[1].verdicts == ("gate pass", "soak 50 % pass", "soak 100 % pass")
    assert (found[1].before, found[1].after) == ({"blue": 100}, {"green": 100})


def bench_model(bench: Bench, version: str) -> ModelVersion:
    from mlops.azure import models

    found = models.get(bench.session, bench.settings.model.name, version)
    assert found is not None
    return found


def wrong_answers(bench: Bench) -> None:
    with pytest.raises(GateFailed) as caught:
        deploy(bench, "3", WRONG)

    assert traffic(bench) == {"green": 100}
    with pytest.raises(PreconditionError, match="has not passed the gate"):
        rollback(bench.session, bench.settings, version=bench_model(bench, "3"))
    assert traffic(bench) == {"green": 100}
    report = Path(next(line for line in caught.value.details if "report" in line).rpartition(" ")[2])
    document = json.loads((report / "report.json").read_text(encoding="utf-8"))
    assert document["candidate"]["scores"]["exact_match"] == 0.0
    assert document["live"]["scores"]["exact_match"] == 1.0
    assert {item["name"]: item["verdict"] for item in document["comparisons"]}["exact_match_difference"] == "fail"
    assert (report / "server.log").stat().st_size > 0
    assert (report / "storage.log").stat().st_size > 0


def a_model_that_raises(bench: Bench) -> None:
    with pytest.raises(GateFailed) as caught:
        deploy(bench, "4", {"raise": "yes"})

    assert traffic(bench) == {"green": 100}
    assert any("answered (HTTP 200) is 0" in line for line in caught.value.details), caught.value.details


def a_model_that_does_not_load(bench: Bench) -> None:
    with pytest.raises(MlopsError) as caught:
        deploy(bench, "5", {"crash": "yes"})

    assert caught.value.exit_code in (3, 8)
    assert any("this model cannot be loaded" in line for line in caught.value.details), caught.value.details
    assert traffic(bench) == {"green": 100}


def the_header_stays_with_its_request(bench: Bench) -> None:
    deploy_again = deploy_version(
        bench.session, bench.settings, bench.model("6", QUESTIONS), test_rows=bench.rows, skip_gate="a slot to name"
    )
    assert deploy_again.slot == "blue"
    endpoints.set_traffic(bench.session, bench.settings.endpoint.name, {"green": 100})
    asker = scorer(bench.session, bench.settings.endpoint.name, timeout_s=HANG_S)

    named = asker.ask(payload("question 1"), slot="blue")
    live = asker.ask(payload("question 1"))

    assert (named.slot, live.slot) == ("blue", "green")
    assert named.texts == live.texts == (QUESTIONS["question 1"],)
    assert asker.ask(payload("nobody knows")).ok is False
    missing = asker.ask(payload("question 1"), slot="purple")
    assert missing.status == 404


def a_preview_has_an_endpoint_of_its_own(bench: Bench) -> None:
    made = deploy_version(bench.session, bench.settings, bench_model(bench, "2"), test_rows=bench.rows, preview=True)

    assert made.endpoint.startswith(bench.settings.endpoint.preview_prefix)
    assert traffic(bench) == {"green": 100}
    endpoints.delete(bench.session, made.endpoint)
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
        trial = arguments[3]
        name = bench.settings.endpoint.name
        if their_traffic:
            shares = {trial.live: 90, trial.candidate: 10}
            endpoints.set_traffic(bench.session, name, shares)
        else:
            made = plan.Plan(
                endpoint=name, creates_endpoint=False, slot=trial.candidate, live=None, why="", before={}, steps=()
            )
            spec = deployment_spec(bench.settings, made, theirs, probes=probes(1000))
            endpoints.deploy(bench.session, spec)
        return report

    monkeypatch.setattr(gate, "evaluate", slow)
    with pytest.raises(PreconditionError, match="somebody else"):
        deploy_version(bench.session, bench.settings, ours, test_rows=bench.rows)

    assert traffic(bench) == before


def test_an_interrupt_while_traffic_moves_puts_it_back(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    deploy(bench, "1", QUESTIONS)
    ours = bench.model("30", {**QUESTIONS, "extra": "30"})
    before = traffic(bench)
    move = endpoints.set_traffic
    calls: list[dict[str, int]] = []

    def interrupted(session: Any, name: str, shares: dict[str, int], **options: Any) -> Any:
        calls.append(dict(shares))
        found = move(session, name, shares, **options)
        if len(calls) == 1:
            raise KeyboardInterrupt
        return found

    monkeypatch.setattr(endpoints, "set_traffic", interrupted)
    with pytest.raises(Interrupted, match="traffic is as it was"):
        deploy_version(bench.session, bench.settings, ours, test_rows=bench.rows)

    assert len(calls) == 2
    assert traffic(bench) == before


def test_a_gate_that_reaches_nothing_does_not_decide(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    deploy(bench, "1", QUESTIONS)
    ours = bench.model("31", {**QUESTIONS, "extra": "31"})
    before = traffic(bench)
    monkeypatch.setattr(endpoints, "key", lambda *_: "not-the-key")

    with pytest.raises(GateUndecided, match="no request reached"):
        deploy_version(bench.session, bench.settings, ours, test_rows=bench.rows)

    assert traffic(bench) == before


@pytest.mark.parametrize("parameters", [{"max_new_token": 3}, {"temperature": 9}])
def test_parameters_that_no_server_takes_are_refused_before_anything_is_deployed(
    bench: Bench, parameters: dict[str, object]
) -> None:
    odd = bench.settings.gate.model_copy(update={"parameters": parameters})

    with pytest.raises(UsageError, match=r"gate\.parameters"):
        draw_samples(bench.settings.model_copy(update={"gate": odd}), bench.rows)


def test_nothing_to_go_back_to(bench: Bench) -> None:
    with pytest.raises(PreconditionError, match="no endpoint 'nowhere'"):
        rollback(bench.session, bench.settings, version=None, name="nowhere")
