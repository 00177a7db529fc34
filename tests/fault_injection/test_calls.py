"""Places are found again: each rule strikes the one call that it was made from, whatever else comes between."""

from __future__ import annotations

from typing import Any

import pytest

from mlops.local.daemon.faults import Faults
from tests.fault_injection.calls import CallPoint, call_points
from tests.fault_injection.cases import FAILS, RELEASE, Case, faults_at, sample
from tests.fault_injection.runner import stages

E, AGENT = "e-0123456789", "fault-1-"
WORKSPACE = "/subscriptions/00000000-0000-0000-0000-000000000001/resourceGroups/local/providers/M.L/workspaces/local"
STATUS = "/subscriptions/00000000-0000-0000-0000-000000000001/providers/M.L/locations/eastus/mfeOperationsStatus"
GUID = "0c0ffee0-0000-4000-8000-00000000000b"
LEDGER = f"/azureml-blobstore-{GUID}/mlops/endpoints/{E}.jsonl"
HOSTS = {
    "arm": "management.azure.com",
    "blob": "mlopslocal.blob.core.windows.net",
    "login": "login.microsoftonline.com",
    "score": f"{E}.eastus.inference.ml.azure.com",
}


def call(service: str, method: str, path: str, query: str = "", agent: str = f"azsdk {AGENT}") -> dict[str, Any]:
    return {"host": HOSTS[service], "method": method, "path": path, "query": query, "agent": agent}


def trace(*, polls: int = 2) -> list[dict[str, Any]]:
    endpoint = f"{WORKSPACE}/onlineEndpoints/{E}"
    others = call("arm", "GET", f"{WORKSPACE}/onlineEndpoints/{E}", agent="somebody else")
    append = call("blob", "PUT", LEDGER, "comp=appendblock")
    moved = [
        call("arm", "PUT", endpoint),
        *[call("arm", "GET", f"{STATUS}/oe:{GUID}:{GUID}", "api-version=1")] * polls,
        call("arm", "GET", endpoint),
    ]
    return [
        call("login", "POST", "/tenant/token"),
        others,
        call("blob", "PUT", LEDGER, "comp=lease"),
        append,
        call("arm", "GET", endpoint),
        call("arm", "GET", f"{endpoint}/deployments"),
        call("arm", "GET", endpoint),
        call("arm", "PUT", f"{endpoint}/deployments/green"),
        *[call("arm", "GET", f"{STATUS}/od:{GUID}:{GUID}")] * polls,
        append,
        call("arm", "POST", f"{endpoint}/listKeys"),
        *[call("score", "POST", "/score", agent="python-httpx")] * 9,
        append,
        *moved,
        others,
        append,
        *moved,
        append,
    ]


def struck(point: CallPoint, calls: list[dict[str, Any]]) -> list[int]:
    faults = Faults()
    faults.add({"kind": "drop", **point.rule(E, AGENT)})
    return [number for number, each in enumerate(calls) if faults.hit(**each)]


def test_each_rule_strikes_the_call_that_it_was_made_from() -> None:
    points = call_points(trace(), E, AGENT, ["begin", "deployed", "gate pass", "traffic 50 seen", "traffic 100 seen"])
    hits = [struck(point, trace()) for point in points]
    assert all(len(each) == 1 for each in hits), dict(zip(map(str, points), hits, strict=True))
    assert len({each[0] for each in hits}) == len(points) == len({str(point) for point in points})
    ours = {number for number, each in enumerate(trace()) if each["agent"] != "somebody else"}
    left_out = ours - {each[0] for each in hits}
    assert {trace()[number]["path"].rpartition("/")[2][:3] for number in left_out} == {"oe:", "od:", "sco"}


def test_how_often_an_operation_was_asked_does_not_matter() -> None:
    seldom, often = trace(polls=1), trace(polls=7)
    for point in call_points(trace(), E, AGENT):
        (first,), (second,) = struck(point, seldom), struck(point, often)
        assert seldom[first] == often[second]


@pytest.mark.parametrize("nth", [1, 2])
async def test_the_operation_that_fails_is_the_one_that_the_call_starts(nth: int) -> None:
    from mlops.local.state.operations import OperationFailed

    puts = [point for point in call_points(trace(), E, AGENT) if str(point.kind) == "PUT endpoint"]
    rule = Case(RELEASE, FAILS, puts[nth - 1]).rule(name="", endpoint=E, agent=AGENT, pid=0, new="green", live="blue")
    faults, failed, begun = Faults(), [], 0
    faults.add(rule)
    for each in trace():
        faults.hit(**each)
        if each["method"] == "PUT" and each["path"].endswith(E):
            begun += 1
            try:
                await faults.before_operation("endpoint.write", each["path"])
            except OperationFailed:
                failed.append(begun)
    assert failed == [nth]


def test_stages_are_what_the_last_rollout_wrote() -> None:
    records = [
        {"kind": "begin", "facts": {}},
        {"kind": "end", "facts": {"outcome": "released"}},
        {"kind": "begin", "facts": {}},
        {"kind": "verdict", "facts": {"what": "gate", "verdict": "pass"}},
        {"kind": "traffic", "facts": {"wanted": {"green": 50, "blue": 50}}},
    ]
    assert stages(records) == ["begin", "gate pass", "traffic 50 wanted"]


def test_a_sample_has_every_fault_and_is_the_same_each_time() -> None:
    cases = [Case(RELEASE, fault, point) for point in call_points(trace(), E, AGENT) for fault in faults_at(point)]
    subset = sample(cases, 15, seed=1)
    assert subset == sample(cases, 15, seed=1)
    assert len(subset) == 15
    assert {case.fault for case in subset} == {case.fault for case in cases}
