"""The command reference, made from the commands themselves: ``mlops/README.md``, and the tables of the README.

``make reference`` writes both; a test refuses a checkout in which they are not what the code says.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import click

from mlops.cli import COMMANDS, group, variables
from mlops.core.console import markdown_table
from mlops.core.errors import EXIT_CODES

ROOT = Path(__file__).parents[2]
COMMON = frozenset({"target", "as_json", "help"})
"""What every command has is said once."""
HEAD = """# Commands

Made by `make reference` from the code. Each command takes

| option | default | |
|---|---|---|
| `-t`, `--target NAME` | `local`, or `MLOPS_TARGET` | the section of `mlops.yaml` to work on |
| `--json` | | the result as one JSON document on stdout; an error too |
| `-h`, `--help` | | what it does, its options, an example |

Progress goes to stderr, results to stdout. An option that is given beats its environment variable, which beats
`mlops.yaml`.
"""
MARK = "<!-- {name}: made by `make reference` -->\n"
END = "<!-- /{name} -->\n"


def leaves(node: click.Command, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Every command that can be called, with its names, in the order of the help."""
    if not isinstance(node, click.Group):
        yield path, node
        return
    context = click.Context(node)
    for name in node.list_commands(context):
        inner = node.get_command(context, name)
        if inner is not None:
            yield from leaves(inner, (*path, name))


def reference() -> str:
    """The whole reference, in Markdown."""
    sections = [HEAD]
    seen = ""
    for path, command in leaves(group):
        if path[0] != seen:
            seen = path[0]
            sections.append(f"## mlops {seen}\n")
        if len(path) > 1:
            sections.append(f"### mlops {' '.join(path)}\n")
        sections.append(_described(path, command))
    sections.append(f"## Environment variables\n\n{variable_table()}")
    sections.append(f"## Exit codes\n\n{codes()}")
    return "\n".join(sections)


def _described(path: tuple[str, ...], command: click.Command) -> str:
    usage = " ".join(["mlops", *path, *(_placed(item) for item in command.params if isinstance(item, click.Argument))])
    blocks = [_prose(command.help or ""), f"`{usage} [OPTIONS]`"]
    rows = [
        [_names(item), _default(item), _prose(item.help or "")]
        for item in command.params
        if isinstance(item, click.Option) and item.name not in COMMON and not item.hidden
    ]
    if rows:
        blocks.append(markdown_table(["option", "default", ""], rows))
    example = [line[2:] for line in (command.epilog or "").splitlines() if line.startswith("  ")]
    if example:
        blocks.append("\n".join(["```sh", *example, "```"]))
    return "\n\n".join(blocks) + "\n"


def _prose(text: str) -> str:
    """A help text; what stands between back quotes twice, as docstrings have it, needs one pair here."""
    paragraphs = [" ".join(part.split()) for part in text.replace("\b", "").split("\n\n")]
    return "\n\n".join(paragraph for paragraph in paragraphs if paragraph).replace("``", "`")


def _placed(item: click.Argument) -> str:
    name = item.make_metavar(click.Context(click.Command("mlops"))).strip("[]").removesuffix("...")
    many = "..." if item.nargs == -1 else ""
    return f"{name}{many}" if item.required else f"[{name}]{many}"


def _names(item: click.Option) -> str:
    names = ", ".join(f"`{name}`" for name in sorted(item.opts, key=len))
    if item.secondary_opts:
        return f"{names} / `{item.secondary_opts[0]}`"
    if item.is_flag or item.count:
        return names
    value = item.make_metavar(click.Context(click.Command("mlops")))
    return f"{names} `{value}`"


def _default(item: click.Option) -> str:
    variables = [item.envvar] if isinstance(item.envvar, str) else list(item.envvar or ())
    names = [f"`{name}`" for name in variables]
    if item.show_default and item.default not in (None, (), ""):
        names.insert(0, f"`{item.default}`")
    return " or ".join(names)


def outline() -> str:
    """The README's table: a line for each name that is typed after ``mlops``."""
    rows = []
    for name, (_, _, text) in COMMANDS.items():
        inner = [path[1:] for path, _ in leaves(group) if path[0] == name and len(path) > 1]
        verbs = " · ".join(" ".join(path) for path in inner)
        anchor = f"[`mlops {name}`](mlops/README.md#mlops-{name})"
        rows.append([f"{anchor} {verbs}".strip(), text])
    return markdown_table(["command", "what it does"], rows) + "\n"


def variable_table() -> str:
    """Every variable ``MLOPS_*``."""
    rows = [
        [f"`{each.name}`", f"`{each.default}`" if each.default else "", each.meaning]
        for each in variables.every(list(leaves(group)))
    ]
    return markdown_table(["variable", "default", ""], rows) + "\n"


def codes() -> str:
    """The README's table of exit codes."""
    return markdown_table(["exit code", ""], [[code, text] for code, text in EXIT_CODES.items()]) + "\n"


def filled(readme: str) -> str:
    """A README with its made parts made anew; the rest stays.

    Raises:
        ValueError: it has no place for one of them.
    """
    for name, text in (("commands", outline()), ("exit codes", codes())):
        mark, end = MARK.format(name=name), END.format(name=name)
        pattern = re.compile(re.escape(mark) + ".*?" + re.escape(end), re.DOTALL)
        if len(pattern.findall(readme)) != 1:
            raise ValueError(f"the README has no place, or several, for '{name}'")
        readme = pattern.sub(lambda _, block=f"{mark}{text}{end}": block, readme)  # type: ignore[misc]
    return readme


def main() -> None:
    """Write both files."""
    readme = ROOT / "README.md"
    readme.write_text(filled(readme.read_text(encoding="utf-8")), encoding="utf-8")
    (ROOT / "mlops" / "README.md").write_text(reference(), encoding="utf-8")


if __name__ == "__main__":
    main()
