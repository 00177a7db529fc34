"""Every `mlops …` in a `run:` is one that the command line takes: its command, its options, how many arguments."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click
import yaml

VARIABLE = re.compile(r"\$\{\w+:\+([^}]*)\}|\$\{?\w+\}?")
GLOB = re.compile(r"\S*[*?]\S*")
STOP = re.compile(r"\s*(?:&&|\|\||[;|]|\d?>>?)\s*")


def scripts(node: Any) -> Iterator[str]:
    """Each `run:` of a workflow or an action."""
    if isinstance(node, dict):
        if isinstance(node.get("run"), str):
            yield node["run"]
        for value in node.values():
            yield from scripts(value)
    elif isinstance(node, list):
        for value in node:
            yield from scripts(value)


def command_lines(script: str) -> Iterator[list[str]]:
    """The arguments of each `mlops` in a script; a variable becomes a word, `${X:+--option}` its option."""
    joined = script.replace("\\\n", " ")
    for line in joined.splitlines():
        for part in STOP.split(line):
            arguments = shlex.split(part, comments=True)
            if arguments and arguments[0] == "mlops":
                yield [word for each in arguments[1:] for word in _expanded(each)]


def _expanded(word: str) -> list[str]:
    whole = VARIABLE.fullmatch(word)
    if whole and whole[1] is not None:
        return shlex.split(whole[1])
    return [VARIABLE.sub("1", word)]


def problem(root: click.Command, arguments: Sequence[str]) -> str | None:
    """What is wrong with a command line, by the real commands' own parsers; nothing is run."""
    command, remaining, path = root, list(arguments), ["mlops"]
    context = click.Context(command, info_name="mlops")
    while isinstance(command, click.Group):
        if not remaining:
            return f"{' '.join(path)}: a command is missing"
        subcommand = command.get_command(context, remaining[0])
        if subcommand is None:
            return f"{' '.join(path)}: no such command '{remaining[0]}'"
        path.append(remaining.pop(0))
        command = subcommand
        context = click.Context(command, info_name=path[-1], parent=context)
    options = [parameter for parameter in command.params if isinstance(parameter, click.Option)]
    names = {name for option in options for name in (*option.opts, *option.secondary_opts)}
    for word in remaining:
        name = word.partition("=")[0]
        if name.startswith("-") and len(name) > 1 and name not in names:
            return f"{' '.join(path)}: no such option '{name}'"
    values, rest, _ = command.make_parser(context).parse_args(args=list(remaining))
    if rest:
        return f"{' '.join(path)}: unexpected argument '{rest[0]}'"
    for parameter in command.params:
        if isinstance(parameter, click.Argument) and parameter.required and values.get(parameter.name or "") is None:
            return f"{' '.join(path)}: the argument {parameter.name} is missing"
    return None


def problems(root: click.Command, folder: Path) -> list[str]:
    """Of all workflows and actions below a folder."""
    lines = []
    for path in sorted([*folder.glob("workflows/*.y*ml"), *folder.glob("actions/*/action.y*ml")]):
        for script in scripts(yaml.safe_load(path.read_text(encoding="utf-8"))):
            for arguments in command_lines(script):
                try:
                    wrong = problem(root, arguments)
                except click.UsageError as error:
                    wrong = error.format_message()
                if wrong:
                    lines.append(f"{path.name}: {wrong}")
    return lines
