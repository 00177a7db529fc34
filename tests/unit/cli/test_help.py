from __future__ import annotations

import json
import subprocess
import sys

import click
import pytest

from mlops.cli import COMMANDS, group, main

HEAVY = (
    "azure",
    "mlflow",
    "datasets",
    "torch",
    "transformers",
    "pandas",
    "polars",
    "pyarrow",
    "rich",
    "pydantic",
    "httpx",
)


def commands(root: click.Command, path: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], click.Command]]:
    if isinstance(root, click.Group):
        context = click.Context(root)
        return [
            item
            for name in root.list_commands(context)
            for item in commands(root.get_command(context, name) or click.Command(name), (*path, name))
        ]
    return [(path, root)]


ALL = commands(group)


@pytest.mark.parametrize(("path", "command"), ALL, ids=[" ".join(path) for path, _ in ALL])
def test_every_command_has_help_an_example_a_target_and_json(path: tuple[str, ...], command: click.Command) -> None:
    names = {option for parameter in command.params for option in parameter.opts}

    assert command.help, path
    assert f"mlops {' '.join(path)}" in (command.epilog or ""), path
    assert {"--target", "--json"} <= names, path
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert parameter.help, (path, parameter.name)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_is_described_in_one_sentence(name: str) -> None:
    command = group.get_command(click.Context(group), name)

    assert command is not None
    assert (command.help or "").splitlines()[0] == COMMANDS[name][2]


@pytest.mark.parametrize(
    ("command", "old", "new", "parameter", "value"),
    [("train", ["--again"], "--force", "force", True), ("chat", ["--deployment", "green"], "--slot", "slot", "green")],
)
def test_an_option_that_was_renamed_still_has_its_old_name(
    command: str, old: list[str], new: str, parameter: str, value: object
) -> None:
    subcommand = group.get_command(click.Context(group), command)
    assert subcommand is not None

    assert subcommand.make_context(command, list(old), resilient_parsing=True).params[parameter] == value
    text = subcommand.get_help(click.Context(subcommand))
    assert new in text
    assert old[0] not in text


@pytest.mark.parametrize(
    "arguments", [[], *[[name] for name in COMMANDS]], ids=lambda value: " ".join(value) or "mlops"
)
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    program = (
        "import sys; from mlops.cli import main; code = main(sys.argv[1:] + ['--help']); "
        f"heavy = sorted(set(sys.modules) & set({HEAVY!r})); "
        "print(heavy, file=sys.stderr); sys.exit(code or bool(heavy))"
    )
    done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr[-500:]


@pytest.mark.parametrize("arguments", [["nonsense"], ["train", "--nonsense"], ["train", "--timeout", "x"]])
def test_wrong_use_is_exit_code_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    assert "Error" in capsys.readouterr().err


def test_an_unknown_target_is_exit_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["deploy", "--target", "nowhere"]) == 2
    assert "no target 'nowhere'" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments", [[], *[[name] for name in COMMANDS]], ids=lambda value: " ".join(value) or "mlops"
)
def test_examples_stand_line_by_line(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*arguments, "--help"]) == 0

    lines = capsys.readouterr().out.splitlines()
    assert "  Example:" in lines
    assert lines[lines.index("  Example:") + 1].startswith("    ")


def test_wrong_use_is_json_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--nonsense", "--json"]) == 2
    assert json.loads(capsys.readouterr().out)["error"]["exit_code"] == 2


def test_a_reader_that_leaves_is_no_error() -> None:
    files = "data/payloads/flat.json " * 3000
    command = f"{sys.executable} -m mlops payload validate {files} | head -1; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)

    assert done.stdout.splitlines()[-1] == "0", done.stderr[-300:]


def test_an_empty_question_is_not_sent(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["endpoint", "score", ""]) == 4
    assert "the question is empty" in capsys.readouterr().err
