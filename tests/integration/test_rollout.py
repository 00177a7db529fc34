"""Rollouts that meet each other, and slots that fail while they are watched."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from mlops import gate
from mlops.azure import endpoints, models
from mlops.azure.endpoints import shares
from mlops.config.settings import Settings
from mlops.core.errors import GateFailed, GateUndecided, PreconditionError
from mlops.ledger import Entry, LeaseLost, Ledger, Locked, TrafficMoved, history
from mlops.rollout.deploy import deploy as deploy_version
from mlops.rollout.result import RolloutResult
from mlops.rollout.rollback import rollback
from mlops.rollout.soak import soak
from tests.support.waiting import HANG_S, until

from .conftest import QUESTIONS, Bench

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # the SDK's own, at each load of an environment
]


def deploy(bench: Bench, version: str, answers: dict[str, Any] | None = None, **change: Any) -> RolloutResult:
    model = bench.model(version, answers or {**QUESTIONS, "version": version})
    return deploy_version(bench.session, with_rollout(bench, **change), model, test_rows=bench.rows)


def with_rollout(bench: Bench, **change: Any) -> Settings:
    return bench.settings.model_copy(update={"rollout": bench.settings.rollout.model_copy(update=change)})


def traffic(bench: Bench) -> dict[str, int]:
    found = endpoints.get(bench.session, bench.settings.endpoint.name)
    assert found is not None
    return shares(found.traffic)


def newest(bench: Bench) -> Entry:
    return history(Ledger(bench.session, bench.settings.endpoint.name).read())[0]


def test_a_rollback_does_not_wait_for_a_deploy_and_has_the_last_word(bench: Bench) -> None:
    deploy(bench, "1")
    with ThreadPoolExecutor(1) as pool:
        under_way = pool.submit(deploy, bench, "2", soak_s=HANG_S, steps=[50, 100])

        def half_way() -> bool:
            assert not under_way.done()
            return traffic(bench) == {"blue": 50, "green": 50}

        until(half_way, what="the first step", every_s=0.1)
        back = rollback(bench.session, bench.settings, version=None, reason="too many complaints")
        assert (back.slot, back.version, traffic(bench)) == ("blue", "1", {"blue": 100})
        assert (back.changed, back.before) == (True, {"blue": 50, "green": 50})
        pool_error = under_way.exception(timeout=HANG_S)

    # had the rollback waited for the deploy, that would have been released
    assert isinstance(pool_error, LeaseLost)
    assert traffic(bench) == {"blue": 100}
    found = history(Ledger(bench.session, bench.settings.endpoint.name).read())
    assert [(entry.action, entry.outcome) for entry in found[:2]] == [
        ("rollback", "rolled_back"),
        ("deploy", "overruled"),
    ]
    assert (found[0].reason, found[0].version) == ("too many complaints", "1")
    assert (found[0].before, found[0].after) == ({"blue": 50, "green": 50}, {"blue": 100})
    assert deploy(bench, "3").traffic == {"green": 100}


def test_a_deploy_that_was_overruled_puts_nothing_into_a_slot(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lease is lost between the plan and the SDK's request, which comes seconds later, after its uploads."""
    deploy(bench, "1")
    deploy(bench, "2")
    ledger = Ledger(bench.session, bench.settings.endpoint.name)
    entity = endpoints._entity

    def overruled(*arguments: Any) -> Any:
        ledger.log.break_()
        return entity(*arguments)

    monkeypatch.setattr(endpoints, "_entity", overruled)
    with pytest.raises(LeaseLost):
        deploy(bench, "3")

    monkeypatch.undo()
    slots = {item.name: item.model_version for item in endpoints.deployments(bench.session, ledger.endpoint)}
    assert slots == {"blue": "1", "green": "2"}
    assert traffic(bench) == {"green": 100}
    assert deploy(bench, "4").traffic == {"blue": 100}


def test_a_slot_whose_code_the_gate_refused_is_no_way_back(bench: Bench) -> None:
    """The version passed long ago; what stands in the slot now did not."""
    deploy(bench, "1")
    deploy(bench, "2")
    strict = bench.settings.gate.model_copy(update={"max_p95_ms": 0.001})
    settings = bench.settings.model_copy(update={"gate": strict})
    old = models.get(bench.session, bench.settings.model.name, "1")
    assert old is not None
    with pytest.raises(GateFailed):
        deploy_version(bench.session, settings, old, test_rows=bench.rows)

    with pytest.raises(PreconditionError, match="has not passed the gate"):
        rollback(bench.session, bench.settings, version=None)

    assert traffic(bench) == {"green": 100}


def test_a_report_that_cannot_be_written_hides_no_verdict(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    deploy(bench, "1")

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(gate, "write", full)
    with pytest.raises(GateFailed) as refused:
        deploy(bench, "2", dict.fromkeys(QUESTIONS, "wrong"))

    assert newest(bench).outcome == "refused"
    assert not any("report" in line or "None" in line for line in refused.value.details)
    assert traffic(bench) == {"blue": 100}


def test_of_two_deploys_at_once_one_wins_and_the_other_says_who(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    deploy(bench, "1")
    inside, go_on = threading.Event(), threading.Event()
    evaluate = gate.evaluate

    def held(*arguments: Any, **options: Any) -> gate.Report:
        inside.set()
        assert go_on.wait(HANG_S)
        return evaluate(*arguments, **options)

    monkeypatch.setattr(gate, "evaluate", held)
    late = bench.model("3", QUESTIONS)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(deploy, bench, "2")
        assert inside.wait(HANG_S)
        with pytest.raises(Locked, match=r"is being changed by .* \(deploy of model-.*:2, since 20") as caught:
            deploy_version(bench.session, bench.settings, late, test_rows=bench.rows)
        go_on.set()
        assert first.result(timeout=HANG_S).traffic == {"green": 100}

    assert caught.value.exit_code == 3


def test_a_slot_that_fails_under_traffic_loses_it_and_its_logs_are_kept(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    deploy(bench, "1")

    def shaken(scorer: Any, settings: Settings, samples: list[gate.Sample], **options: Any) -> gate.Soak:
        odd = [gate.Sample(messages=({"role": "user", "content": "nobody knows"},), reference="") for _ in samples]
        return soak(scorer, settings, odd, **options)

    monkeypatch.setattr("mlops.rollout.steps.soak", shaken)
    with pytest.raises(GateFailed, match="did not hold 50 %") as caught:
        deploy(bench, "2")

    assert traffic(bench) == {"blue": 100}
    folder = next(line.rpartition(" ")[2] for line in caught.value.details if "report" in line)
    report = gate.read(Path(folder))
    assert [found.verdict for found in report.soaks] == ["fail"]
    assert report.timeline[-1].traffic == {"blue": 100}
    assert newest(bench).outcome == "restored"
    assert newest(bench).verdicts == ("gate pass", "soak 50 % fail")


def test_an_old_slot_that_fails_while_the_new_one_holds_is_no_reason_to_go_back(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    deploy(bench, "1")
    unknown = gate.Sample(messages=({"role": "user", "content": "only the new one knows"},), reference="yes")

    def shaken(scorer: Any, settings: Settings, samples: list[gate.Sample], **options: Any) -> gate.Soak:
        return soak(scorer, settings, [unknown], **options)

    monkeypatch.setattr("mlops.rollout.steps.soak", shaken)
    outcome = deploy(bench, "2", {**QUESTIONS, "only the new one knows": "yes"})

    assert outcome.traffic == traffic(bench) == {"green": 100}
    assert outcome.report is not None
    old = next(slot for slot in outcome.report.soaks[0].slots if slot.slot == "blue")
    assert (old.success_rate, outcome.report.soaks[0].verdict) == (0.0, "pass")


def test_the_new_slot_may_get_copies_first(bench: Bench) -> None:
    deploy(bench, "1")

    outcome = deploy(bench, "2", mirror_percent=50, mirror_s=0.2)

    assert outcome.traffic == {"green": 100}
    ledger = Ledger(bench.session, bench.settings.endpoint.name)
    mirrored = [record.facts.mirror for record in ledger.read() if isinstance(record.facts, TrafficMoved)]
    assert {"green": 50} in mirrored
    found = endpoints.get(bench.session, bench.settings.endpoint.name)
    assert found is not None
    assert shares(found.mirror) == {}


def test_a_gate_that_cannot_decide_leaves_it_to_a_person(bench: Bench) -> None:
    deploy(bench, "1")
    some = dict(list(QUESTIONS.items())[:-1])
    some[list(QUESTIONS)[-1]] = "this one is wrong"
    quality = {
        "exact_match": bench.settings.gate.quality["exact_match"].model_copy(update={"min": 0.5, "max_loss": 0.1})
    }
    careful = bench.settings.gate.model_copy(update={"quality": quality, "max_conversations": 12})
    settings = bench.settings.model_copy(update={"gate": careful})

    with pytest.raises(GateUndecided) as caught:
        deploy_version(bench.session, settings, bench.model("2", some), test_rows=bench.rows)

    assert caught.value.exit_code == 7
    assert traffic(bench) == {"blue": 100}
    assert newest(bench).outcome == "undecided"
