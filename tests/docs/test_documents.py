"""What the documents say is there: references as the code has them, links that lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import click
import pytest

from mlops.cli import group, reference, variables
from tests.docs.documents import anchors, blocks, documents, links, paths, tracked
from tests.support.checkout import ROOT
from tests.workflows.command_lines import command_lines, problem

ALL = documents()
FILES = tracked()
TOP = {name.partition("/")[0] for name in FILES if "/" in name}
VARIABLE = re.compile(r"\bMLOPS_[A-Z_]*[A-Z]\b")
FILE_NAMES = {name.rpartition("/")[2] for name in FILES}


def test_the_command_reference_is_what_the_code_says() -> None:
    assert (ROOT / "mlops" / "README.md").read_text(encoding="utf-8") == reference.reference(), "make reference"


def test_the_tables_of_the_readme_are_what_the_code_says() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert readme == reference.filled(readme), "make reference"


def test_the_reference_has_every_command_and_option() -> None:
    text = reference.reference()
    for path, command in reference.leaves(group):
        section = text.split(f" mlops {' '.join(path)}\n", 1)
        assert len(section) == 2, path
        body = section[1].split("\n## ", 1)[0].split("\n### ", 1)[0]
        for item in command.params:
            if isinstance(item, click.Option) and item.name not in reference.COMMON:
                assert all(f"`{name}`" in body for name in item.opts), (path, item.opts)


def test_the_reference_has_every_environment_variable() -> None:
    """Each that the sources name, and none beside them; those of the local workspace are fields of one class."""
    sources = [
        ROOT / name
        for name in FILES
        if name.startswith(("mlops/", "components/", "environments/")) and name.endswith((".py", ".yml"))
    ]
    named = {name for path in sources for name in VARIABLE.findall(path.read_text(encoding="utf-8"))}
    listed = {each.name for each in variables.every(list(reference.leaves(group)))}
    assert named - listed == set()
    assert {name for name in listed - named if not name.startswith("MLOPS_LOCAL_")} == set()


@pytest.mark.parametrize("path", ALL, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    for goal in links(text):
        if "://" in goal or goal.startswith("mailto:"):
            continue
        name, _, anchor = goal.partition("#")
        there = (path.parent / name).resolve() if name else path
        assert there.exists(), f"{path.name} leads to '{goal}'"
        if anchor:
            assert anchor in anchors(there.read_text(encoding="utf-8")), f"{path.name} leads to '{goal}'"


@pytest.mark.parametrize("path", ALL, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_paths_in_inline_code_exist(path: Path) -> None:
    """A path is given from the top of the checkout or from the document's folder, or it is the bare name of a file."""
    missing = [
        name
        for name in paths(path.read_text(encoding="utf-8"), TOP)
        if not ((ROOT / name).exists() or (path.parent / name).exists() or name in FILE_NAMES)
    ]
    assert not missing, f"{path.relative_to(ROOT)} names what is not there: {missing}"


@pytest.mark.parametrize("path", ALL, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_mlops_line_is_one_that_mlops_takes(path: Path) -> None:
    """Lines of `sh` blocks are templates that nothing executes: at least their commands and options exist."""
    for language, first, lines in blocks(path.read_text(encoding="utf-8")):
        if language not in ("sh", "console"):
            continue
        plain = [line.removeprefix("$ ").split(" #")[0].rstrip(" &") for line in lines]
        for arguments in command_lines("\n".join(line for line in plain if line.startswith("mlops "))):
            wrong = None if {"--help", "--version"} & set(arguments) else problem(group, arguments)
            assert not wrong, f"{path.relative_to(ROOT)}:{first}: {wrong}"
