"""The login of a job on GitHub: it lasts while tokens die in seconds, leaks nothing, and says what it lacks."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mlops.config.settings import Settings, load
from mlops.core.console import Console
from mlops.core.errors import AzureError, PreconditionError
from tests.support.checkout import ROOT
from tests.support.github_job import github_job, trust
from tests.support.waiting import HANG_S, until

pytestmark = [pytest.mark.slow]

SUBJECT = "repo:acme@1001/chat@2002:environment:staging"
LIVES = {"TOKEN_S": "4", "ASSERTION_S": "5"}
"""An Azure token is used for two seconds and good for four; what GitHub says is good for five at most."""
JWT = re.compile(r"eyJ[\w-]{8,}\.[\w-]{8,}")
MASK = re.compile(r"^::add-mask::.*$", re.MULTILINE)


@pytest.fixture(scope="module")
def job(home: Path) -> dict[str, str | None]:
    """The environment of a job on GitHub in the environment 'staging', whom Entra trusts."""
    from mlops.local.daemon import client

    os.environ.update({f"MLOPS_LOCAL_{name}": value for name, value in LIVES.items()})
    values: dict[str, str | None] = dict(client.env())
    trust(SUBJECT)
    summary = home / "summary.md"
    return values | {
        **github_job(SUBJECT, repository="acme/chat"),
        "AZURE_CLIENT_SECRET": None,
        "GITHUB_ACTIONS": "true",
        "GITHUB_REPOSITORY": "acme/chat",
        "GITHUB_EVENT_PATH": None,
        "GITHUB_STEP_SUMMARY": str(summary),
        "GITHUB_OUTPUT": str(home / "outputs.txt"),
    }


@pytest.fixture
def in_job(job: dict[str, str | None], monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str | None]]:
    """This process in that job; requests are recorded."""
    from mlops.local.daemon import client

    for name, value in job.items():
        if value is None:
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, value)
    client.request("requests", method="POST", body={"record": True})
    yield job
    client.request("requests", method="POST", body={"record": False})
    client.request("faults", method="DELETE")


def staging(**changes: Any) -> Settings:
    return load("staging", ROOT / "mlops.yaml").model_copy(update=changes)


def asked() -> tuple[int, int]:
    """How often GitHub gave a statement and Azure a token."""
    from mlops.local.daemon import client

    seen = client.request("requests")
    given = [entry for entry in seen if entry["status"] == 200]
    return (
        sum("/idtoken/" in entry["path"] for entry in given),
        sum(entry["path"].endswith("/oauth2/v2.0/token") for entry in given),
    )


def connect(settings: Settings | None = None) -> Any:
    from mlops.azure.session import connect

    return connect(settings or staging(), Console())


@pytest.mark.usefixtures("in_job")
def test_a_session_outlives_its_tokens_where_one_statement_does_not(capfd: pytest.CaptureFixture[str]) -> None:
    from mlops.azure import github
    from mlops.azure.session import workspace_of
    from mlops.ledger import Ledger, TrafficIntent

    settings = staging()
    session = connect(settings)  # before the SDK is imported here: it warns
    from azure.ai.ml import MLClient
    from azure.core.exceptions import ClientAuthenticationError
    from azure.identity import ClientAssertionCredential

    source = github.statements(Console(), settings.http)
    assert source is not None
    once = source.fresh()
    fixed = ClientAssertionCredential(os.environ["AZURE_TENANT_ID"], os.environ["AZURE_CLIENT_ID"], lambda: once)
    control = MLClient(fixed, *workspace_of(settings))
    control.workspaces.get(control.workspace_name)

    refused = ""
    with Ledger(session, f"chat-{uuid.uuid4().hex[:8]}").acquire(action="deploy") as lock:

        def worked_on() -> bool:
            nonlocal refused
            assert session.ml.workspaces.get(session.ml.workspace_name).name
            lock.write(TrafficIntent(desired={"blue": 100}))
            if not refused:
                try:
                    control.workspaces.get(control.workspace_name)
                except ClientAuthenticationError as error:
                    refused = str(error)
            return bool(refused) and asked()[0] >= 8

        until(worked_on, what="the eighth statement", every_s=0.2)

    assert "AADSTS700024" in refused
    assert "not within its valid time range" in refused
    statements, tokens = asked()
    assert tokens >= statements  # the control has made more than one token of its only statement, or it had no time
    shown = capfd.readouterr()
    assert not JWT.search(shown.out)
    assert not JWT.search(MASK.sub("", shown.err))
    assert len(MASK.findall(shown.err)) == statements


@pytest.mark.usefixtures("in_job")
def test_metrics_are_read_with_the_same_login() -> None:
    from mlflow.entities import Metric, RunTag

    from mlops.azure import metrics
    from mlops.azure.session import Session

    session: Session = connect()
    uri = session.ml.workspaces.get(session.ml.workspace_name).mlflow_tracking_uri
    store = metrics._store(session, uri)
    name = f"experiment-{uuid.uuid4().hex[:8]}"
    run = store.create_run(store.create_experiment(name, None, []), "me", 0, [], "root").info.run_id
    child = store.create_run(
        store.get_experiment_by_name(name).experiment_id, "me", 0, [RunTag("mlflow.rootRunId", run)], "step"
    ).info.run_id
    first = asked()[1]
    until(lambda: store.get_run(run) and asked()[1] > first, what="the end of its first token", every_s=0.1)
    store.log_batch(child, [Metric("train_loss", 2.0 - step, step, step) for step in range(2)], [], [])

    found = metrics.read(session, run, experiment=name)

    assert found.last == {"train_loss": 1.0}
    assert found.curves == {"train_loss": ((0, 2.0), (1, 1.0))}


def given(environment: dict[str, str | None]) -> dict[str, str]:
    return {name: value for name, value in (os.environ | environment).items() if value is not None}


def submit(session: Any, line: str) -> str:
    """A pipeline of one step, which is one line of shell."""
    from azure.ai.ml import command, dsl

    step = command(command=line, environment="azureml:not-built-here:1")

    @dsl.pipeline(default_compute="serverless")  # type: ignore[untyped-decorator]
    def pipeline() -> None:
        step()

    return str(session.ml.jobs.create_or_update(pipeline(), experiment_name="login").name)


def test_wait_outlives_several_tokens_and_writes_none_of_them(
    in_job: dict[str, str | None], home: Path, tmp_path: Path
) -> None:
    text = (ROOT / "mlops.yaml").read_text(encoding="utf-8").replace("poll_s: 15", "poll_s: 0.5")
    (tmp_path / "mlops.yaml").write_text(text, encoding="utf-8")
    environment = in_job | {"MLOPS_SETTINGS": str(tmp_path / "mlops.yaml")}
    end = tmp_path / "end"
    name = submit(connect(), f"while [ ! -e {end} ]; do sleep 0.1; done")
    before = asked()[0]

    command = [sys.executable, "-m", "mlops", "wait", name, "-t", "staging"]
    process = subprocess.Popen(
        command, cwd=ROOT, env=given(environment), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )

    def four_more() -> bool:
        assert process.poll() is None
        return asked()[0] >= before + 4

    until(four_more, what="the fourth statement", every_s=0.2)
    end.touch()
    out, err = process.communicate(timeout=HANG_S)

    assert process.returncode == 0, err
    assert name in out
    assert len(MASK.findall(err)) >= 4
    assert not JWT.search(out + MASK.sub("", err))
    written = [*(home / "local" / "logs").rglob("*"), *home.glob("*.*"), *home.glob("reports/**/*")]
    leaked = [file for file in written if file.is_file() and JWT.search(file.read_text(errors="replace"))]
    assert leaked == []
    assert any(file.name == "requests.log" for file in written)


@pytest.mark.usefixtures("in_job")
def test_who_is_not_trusted_sees_what_would_match(monkeypatch: pytest.MonkeyPatch) -> None:
    from mlops.local.daemon import client

    subject = "repo:acme@1001/chat@2002:environment:Production's"
    for name, value in github_job(subject).items():
        monkeypatch.setenv(name, value)

    with pytest.raises(AzureError, match="AADSTS700213: No matching federated identity record") as refused:
        connect()

    error = refused.value
    assert error.exit_code == 8
    assert error.message.endswith(f"presented assertion subject '{subject}'.")
    assert not any("names no environment" in line for line in error.details)
    assert f"  subject   {subject}" in error.details
    assert "  issuer    https://token.actions.githubusercontent.com" in error.details
    assert "  audience  api://AzureADTokenExchange" in error.details
    assert not JWT.search(" ".join([error.message, *error.details, error.hint or ""]))
    app, managed = (shlex.split(line) for line in error.details if line.startswith("  az "))
    wanted = json.loads(app[app.index("--parameters") + 1])
    assert wanted["subject"] == managed[managed.index("--subject") + 1] == subject
    [audience] = wanted["audiences"]
    body = {"issuer": wanted["issuer"], "subject": wanted["subject"], "audience": audience}
    client.request("federated-credentials", method="POST", body=body)
    assert connect().ml.workspaces.get(connect().ml.workspace_name)


@pytest.mark.usefixtures("in_job")
def test_trust_that_ends_while_a_command_runs_is_explained_too() -> None:
    from mlops.azure.errors import translated
    from mlops.local.daemon import client

    session = connect()
    client.request("federated-credentials", method="DELETE")

    def refused() -> AzureError | None:
        """None while the first token is good."""
        try:
            with translated("read the workspace"):
                session.ml.workspaces.get(session.ml.workspace_name)
        except AzureError as error:
            return error
        return None

    try:
        error = until(refused, what="the end of the token", every_s=0.1)
    finally:
        trust(SUBJECT)

    assert error is not None
    assert "AADSTS700213" in error.message
    assert f"  subject   {SUBJECT}" in error.details


@pytest.mark.usefixtures("in_job")
def test_a_branch_is_not_to_be_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in github_job("repo:acme@1001/chat@2002:ref:refs/heads/main").items():
        monkeypatch.setenv(name, value)

    with pytest.raises(AzureError, match="AADSTS700213") as refused:
        connect()

    assert any("a job with `environment: staging` alone" in line for line in refused.value.details)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"AZURE_CLIENT_ID": "00000000-0000-0000-0000-0000000000ff"}, "AADSTS700016.*AZURE_CLIENT_ID is no app"),
        ({"AZURE_TENANT_ID": "00000000-0000-0000-0000-0000000000ff"}, "AADSTS90002.*AZURE_TENANT_ID"),
        ({"ACTIONS_ID_TOKEN_REQUEST_TOKEN": "not-it"}, "ask GitHub .*: it answered 401.*ends with the job"),
    ],
)
@pytest.mark.usefixtures("in_job")
def test_what_is_wrong_is_named(changes: dict[str, str], said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in changes.items():
        monkeypatch.setenv(name, value)

    with pytest.raises(AzureError) as refused:
        connect()

    assert re.search(said, f"{refused.value.message} {refused.value.hint}"), refused.value.message


PLACE = "Settings → Environments → staging → Environment variables"


@pytest.mark.parametrize(
    ("gone", "message", "details"),
    [
        (["AZURE_CLIENT_ID"], "not set: AZURE_CLIENT_ID", [f"AZURE_CLIENT_ID is not set: {PLACE}"]),
        (
            ["AZURE_CLIENT_ID", "AZURE_TENANT_ID"],
            "not set: AZURE_CLIENT_ID and AZURE_TENANT_ID",
            [f"AZURE_CLIENT_ID is not set: {PLACE}", f"AZURE_TENANT_ID is not set: {PLACE}"],
        ),
        (["ACTIONS_ID_TOKEN_REQUEST_URL"], "`permissions: id-token: write` is missing", []),
        (
            ["ACTIONS_ID_TOKEN_REQUEST_URL", "ACTIONS_ID_TOKEN_REQUEST_TOKEN", "AZURE_TENANT_ID"],
            "`permissions: id-token: write` is missing",
            [f"AZURE_TENANT_ID is not set: {PLACE}"],
        ),
        (
            ["AZURE_RESOURCE_GROUP", "AZURE_CLIENT_ID"],
            "AZURE_RESOURCE_GROUP is not set",
            [f"AZURE_CLIENT_ID is not set: {PLACE}", f"AZURE_RESOURCE_GROUP is not set: {PLACE}"],
        ),
    ],
)
@pytest.mark.usefixtures("in_job")
def test_what_is_missing_is_named(
    gone: list[str], message: str, details: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in gone:
        monkeypatch.delenv(name)

    with pytest.raises(PreconditionError) as refused:
        connect()

    assert message in refused.value.message
    assert list(refused.value.details) == details


@pytest.mark.usefixtures("in_job")
def test_a_run_from_a_fork_is_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    event = tmp_path / "event.json"
    event.write_text(json.dumps({"pull_request": {"head": {"repo": {"fork": True}}}}), encoding="utf-8")
    monkeypatch.setenv("GITHUB_EVENT_PATH", str(event))
    monkeypatch.delenv("ACTIONS_ID_TOKEN_REQUEST_URL")

    with pytest.raises(PreconditionError, match="from a fork"):
        connect()


@pytest.mark.parametrize(
    ("path", "rule", "said"),
    [
        ("/idtoken/", {"kind": "status", "status": 503, "times": 3}, None),
        ("/idtoken/", {"kind": "status", "status": 429, "times": 1}, None),
        ("/idtoken/", {"kind": "drop", "times": 3}, None),
        ("/idtoken/", {"kind": "hang", "delay_s": 600, "times": 1}, None),
        ("/idtoken/", {"kind": "status", "status": 500, "times": None}, "ask GitHub.*it answered 500"),
        ("/idtoken/", {"kind": "drop", "times": None}, "ask GitHub.*no answer: "),
        ("/oauth2/", {"kind": "status", "status": 503, "times": 2, "retry_after": 0}, None),
        ("/oauth2/", {"kind": "status", "status": 503, "times": None, "retry_after": 0}, "log in to Azure"),
    ],
)
@pytest.mark.usefixtures("in_job")
def test_who_is_busy_is_asked_again(
    path: str, rule: dict[str, Any], said: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlops.azure import github
    from mlops.azure.errors import UnavailableError
    from mlops.core.retry import Backoff
    from mlops.local.daemon import client

    monkeypatch.setattr(github, "MIN_DURATION_S", 0.0)  # it is asked four times however long each takes
    monkeypatch.setattr(github, "BACKOFF", Backoff(first_s=0.02, longest_s=0.1))
    if rule["kind"] == "hang":
        monkeypatch.setattr(github, "LONGEST_WAIT_S", 1.0)
    client.request("faults", method="POST", body={**rule, "match": {"path": path}})
    if said is None:
        assert connect()
        return
    with pytest.raises(UnavailableError, match=said):
        connect()


def test_a_target_on_this_machine_asks_nobody(in_job: dict[str, str | None]) -> None:
    before = asked()

    assert connect(load("local", ROOT / "mlops.yaml"))

    assert os.environ["AZURE_CLIENT_SECRET"]
    assert asked()[0] == before[0]
    assert in_job["AZURE_CLIENT_SECRET"] is None
