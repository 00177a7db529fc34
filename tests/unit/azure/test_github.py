"""What GitHub says of a job: read with care, masked first, never repeated."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from mlops.azure import github
from mlops.azure.github import Claims, Statements
from mlops.config.settings import Http
from mlops.core.console import Console
from mlops.core.errors import AzureError

SAID = {"iss": "https://token.actions.githubusercontent.com", "sub": "repo:a@1/b@2:pull_request", "aud": "api://x"}


def jwt(claims: Any) -> str:
    body = base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip("=")
    return f"eyJhbGciOiJSUzI1NiJ9.{body}.c2lnbmF0dXJl"


def source() -> Statements:
    return Statements("https://example.com/idtoken?api-version=2.0", "the-request-token", Console(), Http())


@pytest.mark.parametrize("more", [{}, {"a": "1"}, {"a": "12"}, {"a": "123"}])
def test_the_claims_are_read(more: dict[str, str], capfd: pytest.CaptureFixture[str]) -> None:
    claims_source = source()

    assert claims_source._read(httpx.Response(200, json={"value": jwt(SAID | more), "count": 1})) == jwt(SAID | more)

    assert claims_source.last == Claims(SAID["iss"], SAID["sub"], SAID["aud"])
    assert capfd.readouterr() == ("", "")
    assert "the-request-token" not in repr(claims_source)


def test_it_is_masked_on_github(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    broken = "half-a-token"

    with pytest.raises(AzureError) as refused:
        source()._read(httpx.Response(200, json={"value": broken}))

    assert capfd.readouterr().err == f"::add-mask::{broken}\n"
    assert broken not in f"{refused.value}{refused.value.hint}{refused.value.details}"
    assert refused.value.__suppress_context__


@pytest.mark.parametrize(
    "answer",
    [
        httpx.Response(200, text="<html>"),
        httpx.Response(200, json=[]),
        httpx.Response(200, json={"count": 0}),
        httpx.Response(200, json={"value": None}),
        httpx.Response(200, json={"value": "x.y.z"}),
        httpx.Response(200, json={"value": jwt([1])}),
        httpx.Response(200, json={"value": jwt({"sub": "x"})}),
    ],
)
def test_an_answer_without_a_statement_is_refused(answer: httpx.Response) -> None:
    with pytest.raises(AzureError, match="its answer holds none"):
        source()._read(answer)


@pytest.mark.parametrize("status", [301, 400, 401, 403, 404])
def test_a_refusal_is_final(status: int) -> None:
    with pytest.raises(AzureError, match=f"it answered {status}") as refused:
        source()._read(httpx.Response(status))
    assert refused.value.exit_code == 8


def test_where_nothing_can_be_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (github.ADDRESS, github.REQUEST_TOKEN):
        monkeypatch.delenv(name, raising=False)
    assert github.statements(Console(), Http()) is None
    monkeypatch.setenv(github.ADDRESS, "https://example.com")
    assert github.statements(Console(), Http()) is None
    monkeypatch.setenv(github.REQUEST_TOKEN, "x")
    assert github.statements(Console(), Http()) is not None


@pytest.mark.parametrize(
    ("event", "is_fork"),
    [
        ({"pull_request": {"head": {"repo": {"fork": True}}}}, True),
        ({"pull_request": {"head": {"repo": {"fork": False}}}}, False),
        ({"pull_request": {"head": {"repo": None}}}, False),
        ({"ref": "refs/heads/main"}, False),
        (None, False),
    ],
)
def test_a_fork_is_known_by_its_event(
    event: Any, is_fork: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "event.json"
    if event is not None:
        file.write_text(json.dumps(event), encoding="utf-8")
    monkeypatch.setenv("GITHUB_EVENT_PATH", str(file))
    assert github.from_a_fork() is is_fork
