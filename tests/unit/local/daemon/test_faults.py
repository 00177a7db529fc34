"""Faults on request: each kind, counted, before or after the work."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from mlops.local.daemon.faults import BadRules, Faults
from mlops.local.state.config import Config
from mlops.local.state.operations import OperationFailed, Operations
from mlops.local.state.store import Store
from tests.unit.local.conftest import Local

ASK = """
    import json, sys, time
    import requests
    import mlops.local.daemon.client as daemon
    from azure.identity import DefaultAzureCredential
    from azure.storage.blob import BlobServiceClient
    token = DefaultAzureCredential().get_token("https://management.azure.com/.default").token
    url = "https://management.azure.com/subscriptions/x?api-version=1"
    def ask(**kwargs):
        try:
            r = requests.get(url, headers={"Authorization": f"Bearer {token}"}, **kwargs)
            return [r.status_code, r.json()["error"]["code"], r.headers.get("Retry-After")]
        except requests.Timeout:
            return ["timeout"]
        except requests.ConnectionError:  # urllib3 calls it a proxy's error when an answer breaks off
            return ["broken off"]
    def fault(**rule):
        daemon.request("faults", method="DELETE")
        daemon.request("faults", method="POST", body=rule)
"""


def run(local: Local, code: str) -> Any:
    import textwrap

    return json.loads(local.run_python(textwrap.dedent(ASK) + textwrap.dedent(code)))


def test_calls_fail_as_the_rules_say(bare_local: Local) -> None:
    answers = run(
        bare_local,
        """
        out = {"none": ask()}
        path = {"host": "^management", "method": "GET", "path": "^/subscriptions"}
        fault(kind="status", status=429, retry_after=2, skip=1, times=2, match=path)
        out["status"] = [ask() for _ in range(4)]
        fault(kind="drop", match=path)
        out["drop"] = [ask(), ask()]
        fault(kind="hang", delay_s=30, match=path)
        out["hang"] = [ask(timeout=0.5), ask()]
        fault(kind="slow", delay_s=0.4, match=path)
        begin = time.monotonic(); slow = ask(); out["slow"] = [slow, 0.4 <= time.monotonic() - begin]
        fault(kind="status", match={"host": "nowhere"})
        out["other"] = ask()
        print(json.dumps(out))
        """,
    )
    usual = [404, "SubscriptionNotFound", None]
    assert answers["none"] == answers["other"] == usual
    limited = [429, "TooManyRequests", "2"]
    assert answers["status"] == [usual, limited, limited, usual]
    assert answers["drop"] == [["broken off"], usual]
    assert answers["hang"] == [["timeout"], usual]
    assert answers["slow"] == [usual, True]


def test_an_answer_is_lost_after_the_work_was_done(bare_local: Local) -> None:
    answers = run(
        bare_local,
        """
        service = BlobServiceClient("https://mlopslocal.blob.core.windows.net", credential=DefaultAzureCredential(),
                                    initial_backoff=0.1, increment_base=1)
        container = service.get_container_client("azureml")
        fault(kind="drop", when="after", match={"host": "blob", "method": "PUT"})
        try:
            container.upload_blob("b", b"1")  # the client repeats it, and is told that it is there
            error = None
        except Exception as caught:
            error = caught.error_code
        fault(kind="status", status=503, match={"host": "blob"})
        content = container.download_blob("b").readall().decode()
        print(json.dumps([error, content, daemon.request("faults")[0]["matched"]]))
        """,
    )
    assert answers == ["BlobAlreadyExists", "1", 2]


def test_the_daemon_dies_on_request(bare_local: Local) -> None:
    before = bare_local.start()
    pid = bare_local.record()["pid"]
    answers = run(bare_local, 'fault(kind="die", match={"path": "^/subscriptions"}); print(json.dumps(ask()))')
    assert answers == ["broken off"]
    assert bare_local.start() == before
    assert bare_local.record()["pid"] != pid


@pytest.mark.slow
def test_no_acknowledged_resource_is_lost_when_the_daemon_dies(own_local: Local) -> None:
    """Killed before a write: it never happened. Killed after it, with the answer lost: it did."""
    code = """
        import mlops.local.state.config
        url = f"https://management.azure.com{mlops.local.state.config.Config().workspace_id}/computes/c-WHEN?api-version=1"
        headers = {"Authorization": f"Bearer {token}"}
        body = {"location": "eastus", "properties": {"computeType": "AmlCompute", "properties": {
            "vmSize": "Standard_NC24ads_A100_v4", "scaleSettings": {"minNodeCount": 0, "maxNodeCount": 1}}}}
        fault(kind="die", when="WHEN", match={"method": "PUT", "path": "/computes/"})
        try:
            requests.put(url, json=body, headers=headers)
        except requests.ConnectionError:
            daemon.start()
        print(requests.get(url, headers=headers).status_code)
    """
    assert run(own_local, code.replace("WHEN", "before")) == 404
    assert run(own_local, code.replace("WHEN", "after")) == 200


@pytest.mark.parametrize("when", ["before", "after"])
def test_the_client_is_killed_before_or_after_its_request_is_worked_on(bare_local: Local, when: str) -> None:
    victim = f"""
        import os
        service = BlobServiceClient("https://mlopslocal.blob.core.windows.net", credential=DefaultAzureCredential())
        fault(kind="kill_client", pid=os.getpid(), when="{when}", match={{"host": "blob", "path": "^/azureml/b$"}})
        service.get_container_client("azureml").upload_blob("b", b"1")
    """
    with pytest.raises(AssertionError, match="ended with -9"):
        run(bare_local, victim)
    answers = run(
        bare_local,
        """
        service = BlobServiceClient("https://mlopslocal.blob.core.windows.net", credential=DefaultAzureCredential())
        print(json.dumps(service.get_blob_client("azureml", "b").exists()))
        """,
    )
    assert answers is (when == "after")


def test_only_a_process_of_the_users_own_may_be_killed(bare_local: Local) -> None:
    messages = run(
        bare_local,
        """
        import mlops.local.state.layout
        own = json.loads(mlops.local.state.layout.Layout.find().daemon.read_text())["pid"]
        def refused(pid):
            try:
                fault(kind="kill_client", pid=pid)
            except daemon.DaemonFailed as error:
                return str(error)
        print(json.dumps([refused(1), refused(2**30), refused(own)]))
        """,
    )
    assert all("no process" in message for message in messages)


def test_what_hangs_is_let_go_with_the_rules(bare_local: Local) -> None:
    answers = run(
        bare_local,
        """
        import threading
        fault(kind="hang", delay_s=1e6, match={"path": "^/subscriptions"})
        def let_go():
            while not daemon.request("faults")[0]["matched"]:
                time.sleep(0.05)
            daemon.request("faults", method="DELETE")
        threading.Thread(target=let_go, daemon=True).start()
        print(json.dumps(ask()))
        """,
    )
    assert answers == ["broken off"]


def test_a_client_is_known_by_its_agent(bare_local: Local) -> None:
    answers = run(
        bare_local,
        """
        fault(kind="status", status=500, times=None, match={"path": "^/subscriptions", "agent": "nobody"})
        other = ask()
        fault(kind="status", status=500, times=None, match={"path": "^/subscriptions", "agent": "python-requests"})
        print(json.dumps([other[0], ask()[0]]))
        """,
    )
    assert answers == [404, 500]


def test_requests_are_recorded_where_somebody_wishes_it(bare_local: Local) -> None:
    recorded = run(
        bare_local,
        """
        ask()
        nothing = daemon.request("requests")
        daemon.request("requests", method="POST", body={"record": True})
        ask()
        fault(kind="drop", match={"path": "^/subscriptions"})
        ask()
        both = daemon.request("requests")
        daemon.request("requests", method="POST", body={"record": False})
        ask()
        print(json.dumps([nothing, both, daemon.request("requests?after=1")]))
        """,
    )
    nothing, both, later = recorded
    assert nothing == []
    assert [(entry["number"], entry["method"], entry["host"], entry["path"], entry["status"]) for entry in both] == [
        (1, "GET", "management.azure.com", "/subscriptions/x", 404),
        (2, "GET", "management.azure.com", "/subscriptions/x", 0),
    ]
    assert [entry["number"] for entry in later] == [2]


def test_rules_from_a_file(bare_local: Local) -> None:
    bare_local.state.mkdir(parents=True)
    rules = {"rules": [{"kind": "status", "status": 500, "times": None, "match": {"path": "^/subscriptions"}}]}
    (bare_local.state / "faults.json").write_text(json.dumps(rules))
    assert run(bare_local, "print(json.dumps([ask(), ask()]))") == [[500, "InternalServerError", None]] * 2


async def test_operations_fail_and_are_late(tmp_path: Path) -> None:
    faults = Faults()
    faults.add(
        {
            "kind": "operation",
            "code": "OutOfQuota",
            "message": "no",
            "match": {"operation": "deploy", "resource": "/blue$"},
        }
    )
    faults.add({"kind": "operation", "delay_s": 0.2, "match": {"operation": "deploy", "resource": "/green$"}})
    store = Store(tmp_path / "workspace.sqlite")
    operations = Operations(store, Config())
    operations.before = faults.before_operation
    done: list[str] = []

    async def work(resource: str, _: dict[str, Any]) -> None:
        done.append(resource)

    operations.register("deploy", work)
    begin = time.monotonic()
    ids = [operations.start("deploy", f"/{name}", prefix="od") for name in ("blue", "green", "blue")]
    await operations.settle()
    assert time.monotonic() - begin >= 0.2
    results = [operations.get(each) for each in ids]
    assert [result.status for result in results if result] == ["Failed", "Succeeded", "Succeeded"]
    assert results[0] is not None
    assert results[0].error == {"code": "OutOfQuota", "message": "no"}
    assert sorted(done) == ["/blue", "/green"]
    store.close()


async def test_a_deployment_crashes_at_an_operation() -> None:
    faults, crashed = Faults(), []

    def crash(endpoint: str, deployment: str) -> bool:
        crashed.append(f"{endpoint}/{deployment}")
        return True

    faults.crash = crash
    faults.add({"kind": "crash", "endpoint": "e", "deployment": "blue", "match": {"operation": "endpoint.write"}})
    assert faults.hit(method="GET", host="h", path="/", query="") is None
    await faults.before_operation("deployment.write", "/e/blue")
    await faults.before_operation("endpoint.write", "/e")
    await faults.before_operation("endpoint.write", "/e")
    assert crashed == ["e/blue"]


def test_a_rule_waits_for_what_comes_before_and_goes_by_its_name() -> None:
    faults = Faults()
    rule = {"kind": "drop", "match": {"method": "GET"}, "since": {"method": "PUT"}, "since_count": 2, "skip": 1}
    faults.add([{**rule, "name": "a"}, {"kind": "drop", "name": "b", "match": {"method": "HEAD"}}])

    struck = [faults.hit(method=method) is not None for method in ("GET", "PUT", "GET", "PUT", "GET", "GET", "GET")]

    assert struck == [False, False, False, False, False, True, False]
    faults.clear("a")
    assert [shown["name"] for shown in faults.shown()] == ["b"]
    faults.clear()
    assert faults.shown() == []


async def test_operations_of_other_kinds_go_on() -> None:
    faults = Faults()
    faults.add([{"kind": "operation", "code": "X", "skip": 1, "match": {"operation": "deploy"}}])
    await faults.before_operation("delete", "/a")
    await faults.before_operation("deploy", "/a")
    with pytest.raises(OperationFailed):
        await faults.before_operation("deploy", "/a")
    assert faults.hit(method="GET", host="h", path="/", query="") is None


@pytest.mark.parametrize(
    ("rule", "told"),
    [
        ({"kind": "explode"}, "kind"),
        ({"kind": "drop", "match": {"path": "("}}, "not a regular expression"),
        ({"kind": "drop", "twice": 1}, "twice"),
        ({"kind": "drop", "times": 0}, "times"),
        ({"kind": "crash", "endpoint": "e"}, "needs an endpoint and a deployment"),
        ({"kind": "kill_client"}, "no process 0 of this user"),
        ("drop", "dictionary"),
    ],
)
def test_rules_that_cannot_be_read_are_refused(rule: object, told: str) -> None:
    with pytest.raises(BadRules, match=told):
        Faults().add(rule)
