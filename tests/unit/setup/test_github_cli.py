"""`gh` is asked as it is, answers are read whole, and nothing is written twice."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from mlops.core.errors import PreconditionError
from mlops.setup import github_cli
from tests.unit.setup.gh import FakeGitHub

REPOSITORY = "octo/chat"


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("https://github.com/octo/chat.git", "octo/chat"),
        ("https://token@github.com/octo/chat", "octo/chat"),
        ("git@github.com:octo/chat.git", "octo/chat"),
        ("ssh://git@github.com:22/octo/chat.git", "octo/chat"),
        ("https://gitlab.example/octo/chat.git", None),
        ("https://github.com/octo", None),
        ("/somewhere/on/disk", None),
        ("https://github.com/octo/chat;id", None),
        ("https://github.com/{owner}/chat", None),
        ("https://github.com/octo/..", None),
        ("", None),
    ],
)
def test_repository_of_a_remote(address: str, name: str | None) -> None:
    assert github_cli.of_remote(address) == name


def test_a_variable_that_names_no_repository_names_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GH_REPO", "github.com/octo_corp/chat")
    assert github_cli.repository(tmp_path) == "octo_corp/chat"
    monkeypatch.setenv("GH_REPO", "octo/chat?x=$(id)")
    assert github_cli.repository(tmp_path) is None


def test_repository_of_a_checkout(tmp_path: Path) -> None:
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    assert github_cli.repository(tmp_path) is None
    command = ["git", "-C", str(tmp_path), "remote", "add", "origin", "git@github.com:octo/chat.git"]
    subprocess.run(command, check=True)
    assert github_cli.repository(tmp_path) == REPOSITORY


@pytest.mark.parametrize("immutable", [True, False])
def test_the_subject_begins_as_github_says(github: FakeGitHub, immutable: bool) -> None:
    prefix = "repo:octo@11/chat@22"  # counts also where the flag beside it says otherwise, as was seen in 2026
    github.write(subject={"use_default": True, "use_immutable_subject": immutable, "sub_claim_prefix": prefix})
    assert github_cli.subject(REPOSITORY, "staging") == f"{prefix}:environment:staging"
    assert github_cli.subject(REPOSITORY, "a:b") == f"{prefix}:environment:a%3Ab"


def test_a_subject_that_github_does_not_show_is_not_made_up(github: FakeGitHub) -> None:
    github.write(subject={"use_default": False, "include_claim_keys": ["repository_id", "context"]})
    with pytest.raises(PreconditionError, match="repository_id, context") as caught:
        github_cli.subject(REPOSITORY, "staging")
    assert "--subject staging=" in (caught.value.hint or "")
    github.write(subject={"use_default": True})
    with pytest.raises(github_cli.GitHubError, match="does not say"):
        github_cli.subject(REPOSITORY, "staging")


def test_variables_of_all_pages_and_the_environments_over_the_repositorys(github: FakeGitHub) -> None:
    github.write(variables={"A": "1", "B": "2"}, environments={"staging": {"B": "3", "C": "4"}})
    assert github_cli.variables(REPOSITORY, "staging") == {"A": "1", "B": "3", "C": "4"}
    with pytest.raises(github_cli.NotThereError):
        github_cli.variables(REPOSITORY, "production")


def test_what_is_right_is_not_written_again(github: FakeGitHub) -> None:
    assert github_cli.ensure_environment(REPOSITORY, "staging")
    assert not github_cli.ensure_environment(REPOSITORY, "staging")
    assert github_cli.set_variable(REPOSITORY, "staging", "A", "one")
    assert not github_cli.set_variable(REPOSITORY, "staging", "A", "one")
    assert github_cli.set_variable(REPOSITORY, "staging", "A", "two")
    assert github.state["environments"] == {"staging": {"A": "two"}}
    base = "repos/octo/chat/environments/staging"
    assert github.changes() == [f"PUT {base}", f"POST {base}/variables", f"PATCH {base}/variables/A"]
    assert not any("two" in json.dumps(call["arguments"]) for call in github.calls)


def test_errors_say_what_to_do(github: FakeGitHub, monkeypatch: pytest.MonkeyPatch) -> None:
    github.write(forbidden=True)
    with pytest.raises(github_cli.GitHubError, match="refused PUT") as refused:
        github_cli.ensure_environment(REPOSITORY, "staging")
    assert "administer" in (refused.value.hint or "")
    github.write(logged_out=True)
    with pytest.raises(PreconditionError, match="not logged in"):
        github_cli.variables(REPOSITORY, "staging")
    monkeypatch.setenv("PATH", str(github.folder))
    assert not github_cli.installed()
    with pytest.raises(PreconditionError, match="not installed"):
        github_cli.variables(REPOSITORY, "staging")
