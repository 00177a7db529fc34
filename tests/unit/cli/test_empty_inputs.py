"""A workflow passes every input: what was left out arrives as an empty string and counts as not given."""

from __future__ import annotations

from typing import Any

import click
import pytest
from click.testing import CliRunner

from mlops.cli import group
from mlops.cli.options import Timespan, argument, option

PASSED = {
    "data prepare": ["--dataset", "--revision", "--percent", "--way", "--seed", "--train-split", "--output"],
    "train": ["--data", "--base-model", "--percent", "--epochs", "--reason", "--timeout"],
    "wait": ["JOB", "--timeout"],
    "metrics": ["JOB"],
    "register": ["JOB"],
    "deploy": ["VERSION", "--data", "--steps", "--soak", "--skip-gate"],
    "rollback": ["VERSION", "--skip-gate", "--reason", "--endpoint"],
    "cleanup": ["--older-than", "--keep-versions"],
}


def find_command(path: str) -> click.Command:
    command: click.Command | None = group
    for name in path.split():
        assert isinstance(command, click.Group)
        command = command.get_command(click.Context(command), name)
    assert command is not None
    return command


@pytest.mark.parametrize("path", PASSED)
def test_empty_inputs_of_a_workflow_are_not_given(path: str) -> None:
    command = find_command(path)
    arguments = [part for name in PASSED[path] for part in ([name, ""] if name.startswith("--") else [""])]

    empty, bare = command.make_context(path, arguments), command.make_context(path, [])

    assert empty.params == bare.params
    assert not set(empty.params) & {name for name, value in empty.params.items() if value == "" and name != "reason"}


@click.command()
@option("--number", type=click.IntRange(1), default=3)
@option("--time", "time_s", type=Timespan())
@argument("name")
def sample(**options: Any) -> None:
    click.echo(options)


@pytest.mark.parametrize(
    ("arguments", "options"),
    [
        ([], {"number": 3, "time_s": None, "name": None}),
        (["--number", "", "--time=", ""], {"number": 3, "time_s": None, "name": None}),
        (["--number", "5", "--time", "2m", "x"], {"number": 5, "time_s": 120.0, "name": "x"}),
        (["--time", "90"], {"number": 3, "time_s": 90.0, "name": None}),
    ],
)
def test_the_default_takes_the_place_of_an_empty_value(arguments: list[str], options: dict[str, Any]) -> None:
    done = CliRunner().invoke(sample, arguments)

    assert done.exit_code == 0, done.output
    assert eval(done.output) == options


@pytest.mark.parametrize("arguments", [["--time", "soon"], ["--number", "0"], ["--time", "-3s"]])
def test_wrong_values_are_wrong_use(arguments: list[str]) -> None:
    assert CliRunner().invoke(sample, arguments).exit_code == 2


@pytest.mark.parametrize(("value", "dry"), [("true", True), ("false", False), ("", False)])
@pytest.mark.parametrize("path", ["deploy", "cleanup", "reconcile", "train"])
def test_a_workflows_boolean_is_a_flag(path: str, value: str, dry: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLOPS_DRY_RUN", value)

    assert find_command(path).make_context(path, []).params["dry_run"] is dry
