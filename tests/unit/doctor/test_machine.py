"""Python, packages, values, GitHub's variables, the hub: what is found without a workspace."""

from __future__ import annotations

import http.server
import json
import os
import stat
import threading
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any, ClassVar

import pytest

from mlops.config.settings import load
from mlops.core.console import Console
from mlops.doctor import access, github, machine, models
from mlops.doctor.context import CheckContext
from mlops.doctor.findings import Finding, Mark
from tests.support.checkout import ROOT


def context(target: str = "staging", file: Path = ROOT / "mlops.yaml", **changes: Any) -> CheckContext:
    prepared = CheckContext(target=target, console=Console(quiet=True))
    prepared.settings = load(target, file).model_copy(update=changes)
    return prepared


def one(finding: Finding | list[Finding]) -> Finding:
    assert isinstance(finding, Finding)
    return finding


@pytest.mark.parametrize(
    ("version", "mark"),
    [
        ((3, 10, 14), Mark.BAD),
        ((3, 11, 0), Mark.GOOD),
        ((3, 13, 9), Mark.GOOD),
        ((3, 14, 0), Mark.DOUBTFUL),
    ],
)
def test_python_is_what_the_packages_are_locked_for(version: tuple[int, int, int], mark: Mark) -> None:
    finding = machine.python_found(version)

    assert finding.mark is mark
    assert ".".join(map(str, version)) in finding.what


@pytest.mark.parametrize(
    ("state", "mark"),
    [("Enabled", Mark.GOOD), ("Warned", Mark.DOUBTFUL), ("PastDue", Mark.DOUBTFUL), ("Disabled", Mark.BAD)],
)
def test_a_subscription_that_is_switched_off_or_about_to_be(state: str, mark: Mark) -> None:
    finding = access.subscription_found("Team", "s-1", state)

    assert finding.mark is mark
    assert finding.what.startswith("'Team' (s-1)")


def lock(folder: Path, *lines: str) -> Path:
    file = folder / "environments" / "cli" / "requirements.txt"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return file


def test_packages_as_locked(tmp_path: Path) -> None:
    click = metadata.version("click")
    file = lock(
        tmp_path,
        f"click=={click} \\",
        "    --hash=sha256:00",
        "    # via",
        "    #   other",
        'nothing-for-here==1.0 ; python_version < "3" \\',
        "    --hash=sha256:00",
    )

    finding = machine.compared(file, install="make install")

    assert (finding.mark, finding.what) == (Mark.GOOD, "1 as locked in environments/cli/requirements.txt")


def test_other_versions_are_doubtful_and_missing_packages_bad(tmp_path: Path) -> None:
    click = metadata.version("click")
    finding = machine.compared(lock(tmp_path, "click==0.1"), install="make install")
    assert (finding.mark, finding.details, finding.hint) == (
        Mark.DOUBTFUL,
        (f"click is {click}, not 0.1",),
        "make install",
    )

    names = [f"no-such-package-{number}==1" for number in range(9)]
    finding = machine.compared(lock(tmp_path, "click==0.1", *names), install="make install")
    assert finding.mark is Mark.BAD
    assert finding.what.startswith("9 of 10 packages")
    assert finding.details[-1] == "and 3 more"


def test_the_packages_of_this_machine_are_those_of_its_lock() -> None:
    finding = machine.packages(context("local"))

    assert finding.mark in (Mark.GOOD, Mark.DOUBTFUL)  # somebody may try another version here
    assert "environments/local/requirements.txt" in finding.what


def test_without_a_checkout_the_packages_are_not_looked_at(tmp_path: Path) -> None:
    assert machine.packages(context(root=tmp_path)).mark is Mark.SKIPPED


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("exact_match: {min: null", "exact_mach: {min: null", "exact_mach"),
        ("num_train_epochs: 3", "huggingface_id: x/y", "'huggingface_id' cannot be set as a parameter"),
        ("scoring_script: score.py", "scoring_script: other.py", "other.py"),
    ],
)
def test_what_the_settings_name_must_be_there(
    old: str, new: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (ROOT / "mlops.yaml").read_text(encoding="utf-8")
    assert old in text
    file = tmp_path / "mlops.yaml"
    file.write_text(text.replace(old, new, 1), encoding="utf-8")
    for name in ("environments", "components", "data"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.setenv("MLOPS_SETTINGS", str(file))

    findings = machine.values(context(file=file))

    assert isinstance(findings, list)
    assert {each.mark for each in findings} == {Mark.BAD}
    assert says in findings[0].what
    assert findings[0].place is not None
    assert findings[0].place.line is not None


def test_a_retired_size_is_left_to_its_own_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (ROOT / "mlops.yaml").read_text(encoding="utf-8")
    file = tmp_path / "mlops.yaml"
    file.write_text(text.replace("    size: Standard_NC24ads_A100_v4", "    size: Standard_NC6s_v3"), encoding="utf-8")
    (tmp_path / "environments").symlink_to(ROOT / "environments")
    monkeypatch.setenv("MLOPS_SETTINGS", str(file))

    assert one(machine.values(context(file=file))).mark is Mark.GOOD


# -- GitHub's variables, by a program that answers as gh does ----------------------------------------------------------

SET = {
    "AZURE_CLIENT_ID": "c",
    "AZURE_TENANT_ID": "t",
    "AZURE_SUBSCRIPTION_ID": "s",
    "AZURE_RESOURCE_GROUP": "g",
    "AZUREML_WORKSPACE_NAME": "w",
    "AZURE_REGION": "westeurope",
}
GH = """#!/usr/bin/env python3
import json, sys
found = json.load(open({answers!r}))
path = sys.argv[-1].partition("?")[0]
if path not in found:
    print("gh: Not Found (HTTP 404)", file=sys.stderr)
    sys.exit(1)
print(json.dumps({{"variables": [{{"name": n, "value": v}} for n, v in found[path].items()]}}))
"""


@pytest.fixture
def gh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Put a `gh` on the path that answers with the given variables of the environment staging."""

    def put(variables: dict[str, str] | None) -> None:
        folder = tmp_path / "bin"
        folder.mkdir()
        answers = folder / "answers.json"
        there: dict[str, Any] = {"repos/acme/chat/actions/variables": {"AZURE_REGION": "eastus"}}
        if variables is not None:
            there["repos/acme/chat/environments/staging/variables"] = variables
        answers.write_text(json.dumps(there))
        program = folder / "gh"
        program.write_text(GH.format(answers=str(answers)))
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
        monkeypatch.setenv("GH_REPO", "acme/chat")

    for name in SET:
        monkeypatch.delenv(name, raising=False)
    return put


def test_all_six_variables_are_set(gh: Any) -> None:
    gh(SET)

    finding = one(github.variables(context()))

    assert (finding.mark, finding.what) == (Mark.GOOD, "all 6 are set for the environment 'staging' of acme/chat")


def test_missing_variables_are_named_and_the_repositorys_count_too(gh: Any) -> None:
    gh({name: value for name, value in SET.items() if name in ("AZURE_CLIENT_ID", "AZURE_TENANT_ID")})

    finding = one(github.variables(context()))

    assert finding.mark is Mark.DOUBTFUL
    assert "has no AZURE_SUBSCRIPTION_ID, AZURE_RESOURCE_GROUP, AZUREML_WORKSPACE_NAME:" in finding.what
    assert finding.hint == "mlops setup --target staging --github sets them"


def test_another_place_than_this_machines_is_told(gh: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    gh(SET)
    monkeypatch.setenv("AZURE_RESOURCE_GROUP", "G")
    monkeypatch.setenv("AZUREML_WORKSPACE_NAME", "another")

    finding = one(github.variables(context()))

    assert finding.mark is Mark.DOUBTFUL
    assert finding.details == ("AZUREML_WORKSPACE_NAME is 'w' there, 'another' here",)


def test_an_environment_that_github_has_not_is_told(gh: Any) -> None:
    gh(None)

    finding = one(github.variables(context()))

    assert finding.mark is Mark.DOUBTFUL
    assert "environment 'staging'" in finding.what
    assert finding.hint == "mlops setup --target staging --github makes it"


def test_a_gh_without_a_login_is_no_obstacle(gh: Any, tmp_path: Path) -> None:
    gh(SET)
    (tmp_path / "bin" / "gh").write_text("#!/bin/sh\necho 'To get started, run: gh auth login' >&2; exit 4\n")

    finding = one(github.variables(context()))

    assert finding.mark is Mark.SKIPPED
    assert "not logged in" in finding.what


def test_without_gh_or_a_repository_nothing_is_looked_at(
    gh: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gh(SET)
    monkeypatch.delenv("GH_REPO")
    assert "no repository on GitHub" in one(github.variables(context(root=tmp_path))).what
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "'gh' is not installed" in one(github.variables(context())).what
    assert one(github.variables(context("local"))).mark is Mark.SKIPPED


def test_in_a_job_the_variables_are_the_jobs_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    for name, value in SET.items():
        monkeypatch.setenv(name, value)
    assert one(github.variables(context())).mark is Mark.GOOD

    monkeypatch.setenv("AZURE_REGION", "")
    finding = one(github.variables(context()))
    assert "this job has no AZURE_REGION" in finding.what


# -- the hub, by a server that answers as it does ----------------------------------------------------------------------


class Hub(http.server.BaseHTTPRequestHandler):
    """Knows one open and one gated model."""

    gated: ClassVar[dict[str, Any]] = {"acme/open": False, "acme/gated": "manual"}

    def do_GET(self) -> None:
        name = self.path.removeprefix("/api/models/").partition("?")[0].partition("/revision/")[0]
        if name not in self.gated:
            self.send_response(401 if name == "acme/none" else 503)  # the hub hides what is private behind a 401
            if name == "acme/none":
                self.send_header("X-Error-Code", "RepoNotFound")
            self.end_headers()
            return
        body = json.dumps({"id": name, "sha": "0123456789abcdef", "gated": self.gated[name], "siblings": []}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Not into the test's output."""


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    yield
    server.shutdown()
    server.server_close()


@pytest.mark.usefixtures("hub")
@pytest.mark.parametrize(
    ("name", "mark", "says"),
    [
        ("acme/open", Mark.GOOD, "commit 01234567"),
        ("acme/gated", Mark.BAD, "accepted its terms"),
        ("acme/none", Mark.BAD, "has no public model 'acme/none'"),
        ("acme/ill", Mark.DOUBTFUL, "this machine cannot ask for it"),
    ],
)
def test_a_model_of_the_hub_is_asked_for(name: str, mark: Mark, says: str) -> None:
    of = context()
    choice = of.settings.base_model.model_copy(update={"huggingface_id": name})
    finding = models.base_model(context(base_model=choice))

    assert finding.mark is mark
    assert says in finding.what


def test_a_hub_out_of_reach_is_only_doubtful(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)

    finding = models.base_model(context())

    assert finding.mark is Mark.DOUBTFUL
    assert "may have another way out" in (finding.hint or "")


def test_the_local_workspace_has_a_stand_in_for_one_model() -> None:
    assert models.base_model(context("local")).mark is Mark.GOOD
    choice = context("local").settings.base_model.model_copy(update={"huggingface_id": "acme/open"})
    assert models.base_model(context("local", base_model=choice)).mark is Mark.BAD
