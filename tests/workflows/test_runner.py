"""The runner itself, on small workflows: what it promises is what the real files are judged by."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.workflows.conftest import machine, without
from tests.workflows.runner import bridge
from tests.workflows.runner.bridge import Bridge
from tests.workflows.runner.files import Invalid, Unknown
from tests.workflows.runner.repository import Repository
from tests.workflows.runner.workflows import happen, start
from tests.workflows.runner.world import World

SAMPLES = Path(__file__).parent / "samples"
PASSWORD = "correct-horse"


def token(subject: str, claims: Mapping[str, Any]) -> dict[str, str]:
    return {"ACTIONS_ID_TOKEN_REQUEST_TOKEN": f"for {subject}"}


@pytest.fixture
def world(github: Bridge, tmp_path: Path) -> World:
    files = {f".github/workflows/{path.name}": path.read_text(encoding="utf-8") for path in SAMPLES.glob("*.yml")}
    files[".github/actions/greet/action.yml"] = (SAMPLES / "actions" / "greet.yml").read_text(encoding="utf-8")
    repository = Repository.new(tmp_path / "repository", files | {"src/code.txt": "42\n"})
    return World(
        bridge=github,
        repository=repository.folder,
        folder=tmp_path / "world",
        environ=machine(),
        variables={None: {"PLACE": "nowhere"}, "staging": {"PLACE": "stage"}},
        secrets={"PASSWORD": PASSWORD},
        identity=token,
    )


def edited(world: World, name: str, old: str, new: str) -> Repository:
    repository = Repository(world.repository)
    path = repository.folder / ".github" / "workflows" / name
    text = path.read_text(encoding="utf-8")
    assert old in text
    repository.commit({str(path.relative_to(repository.folder)): text.replace(old, new, 1)})
    return repository


def test_env_outputs_masks_annotations_actions_and_artifacts(world: World) -> None:
    runs = happen(world, Repository(world.repository).push({"src/new.py": "", "README.md": ""}))
    assert list(runs) == ["steps.yml"]
    run = runs["steps.yml"]
    assert run.conclusion == "success", run
    first = run.job("first")

    assert first.step("Speak").log == "workflow step main 42\n"
    assert first.step("Later").log == "for later job code.txt\nnew.py\n"
    assert first.outputs == {"said": "hello Ada!", "lines": "one=1\ntwo"}
    assert first.summary == "### Spoken\n"
    assert first.step('greeted "$GREETED"').log == "run by Ada!\n"
    assert [each.outcome for each in first.step("greet").inner] == ["success", "success"]
    assert first.step("Secrets").log == "the password is ***\nand *** one\n"
    assert PASSWORD not in first.log
    error, *warnings = first.step("Annotate").visible_annotations
    assert (error.file, error.line, error.title, error.message) == ("a.json", 3, "Bad, this", "two\nlines")
    assert [each.message for each in warnings] == [f"number {number}" for number in range(1, 11)]
    assert [path.name for path in (run.artifacts / "out").iterdir()] == ["two"]
    assert run.job("second").step("Use").log == "hello Ada!\n"
    assert run.job("second").step("Only where it failed").outcome == "skipped"


def test_what_follows_a_failure(world: World) -> None:
    run = start(world, Repository(world.repository).dispatch(), ".github/workflows/failing.yml")
    assert run is not None
    assert run.conclusion == "failure"
    outcomes = {step.name: (step.outcome, step.conclusion) for step in run.job("red").steps}
    assert outcomes == {
        "Forgiven": ("failure", "success"),
        "A pipe": ("failure", "failure"),
        "Not reached": ("skipped", "skipped"),
        "Always": ("success", "success"),
        "On failure": ("success", "success"),
    }
    slow = run.job("slow")
    assert slow.result == "cancelled"
    assert slow.seconds < 20
    assert slow.step("Clean up").log == "cleaned\n"
    assert run.job("lenient").result == "failure"
    assert run.job("skipped").result == "skipped"
    assert run.job("after").result == "success"


def test_a_matrix_a_called_workflow_an_environment_and_tokens(world: World) -> None:
    event = Repository(world.repository).dispatch(target="staging")
    run = start(world, event, ".github/workflows/calling.yml")
    assert run is not None
    assert run.conclusion == "success", run
    assert [job.steps[0].log for job in run.jobs[:3]] == ["1a nothing\n", "1b nothing\n", "2a nothing\n"]
    inner = run.job("call/inner")
    assert inner.concurrency == {"group": "inner-staging", "queue": "max"}
    assert (inner.environment, inner.url, inner.deployment) == ("staging", "https://stage.example.org", True)
    assert inner.log.endswith("for repo:acme@1001/chat@2002:environment:staging\n")
    assert run.job("result").steps[0].log == f"stage false 2 {len(PASSWORD)}\n"


def test_a_fork_gets_no_secret_no_variable_and_no_token(world: World) -> None:
    event = Repository(world.repository).pull_request({"src/code.txt": "43"}, fork=True)
    run = happen(world, event)["calling.yml"]
    assert run.conclusion == "success", run
    assert run.job("call/inner").log.endswith("nothing\n")
    assert not any(job.may_ask_for_token for job in run.every_job())
    assert run.job("result").steps[0].log == " false 2 0\n"


def test_filters_decide_what_starts(world: World) -> None:
    repository = Repository(world.repository)
    assert happen(world, repository.push({"src/README.md": "", "docs/a.txt": ""})) == {}
    assert happen(world, repository.push({"src/a.py": ""}, branch="feature")) == {}


@pytest.mark.parametrize(
    ("name", "old", "new", "message"),
    [
        ("steps.yml", "needs: first", "needs: frist", "frist"),
        ("steps.yml", "steps.speak.outputs", "step.speak.outputs", "step"),
        ("steps.yml", "working-directory", "working-dir", "working-dir"),
        ("calling.yml", "      id-token: write\n", "", "id-token: write"),
        ("calling.yml", "loud: ${{ inputs.loud || false }}", "loud: ${{ inputs.target }}", "boolean"),
        ("calling.yml", "      target: ${{ inputs.target || 'staging' }}\n", "", "target"),
    ],
)
def test_a_mistake_is_refused_as_github_does(world: World, name: str, old: str, new: str, message: str) -> None:
    repository = edited(world, name, old, new)
    event = repository.push({"src/a.py": ""}) if name == "steps.yml" else repository.dispatch(target="staging")
    with pytest.raises(Invalid, match=message):
        start(world, event, f".github/workflows/{name}")


def test_a_caller_and_its_called_workflow_in_one_group_would_wait_for_ever(world: World) -> None:
    repository = edited(
        world, "calling.yml", "  call:\n", "  call:\n    concurrency: inner-${{ inputs.target || 'staging' }}\n"
    )
    with pytest.raises(Invalid, match="waits for the concurrency group 'inner-staging'"):
        start(world, repository.dispatch(target="staging"), ".github/workflows/calling.yml")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("    timeout-minutes: 5\n", "    container: alpine\n", "container"),
        ("actions/checkout@3d3c42e5aac5ba805825da76410c181273ba90b1", "actions/checkout@v7", "pinned"),
        ("actions/upload-artifact@", "actions/cache@", "actions/cache"),
        ("persist-credentials: false", "sparse-checkout: src", "sparse-checkout"),
        ("    shell: bash", "    shell: python", "python"),
    ],
)
def test_what_the_runner_lacks_is_named(world: World, old: str, new: str, message: str) -> None:
    repository = edited(world, "steps.yml", old, new)
    with pytest.raises(Unknown, match=message):
        start(world, repository.push({"src/a.py": ""}), ".github/workflows/steps.yml")


@pytest.mark.parametrize(
    ("inputs", "message"), [({"target": "moon"}, "moon"), ({}, "options|required"), ({"x": "1"}, "x")]
)
def test_a_dispatch_is_checked(world: World, inputs: dict[str, str], message: str) -> None:
    with pytest.raises(Invalid, match=message):
        start(world, Repository(world.repository).dispatch(**inputs), ".github/workflows/calling.yml")


@pytest.mark.parametrize(("ci", "outcome"), [("true", pytest.fail.Exception), ("", pytest.skip.Exception)])
def test_without_node_it_is_said(monkeypatch: pytest.MonkeyPatch, ci: str, outcome: type[BaseException]) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setenv("CI", ci)
    with pytest.raises(bridge.Missing, match="node and npm") as missing:
        bridge.install()
    with pytest.raises(outcome, match="cannot be executed here: node and npm"):
        without(missing.value)
