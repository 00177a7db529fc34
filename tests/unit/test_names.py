"""Names of the product's code: the field's nouns, and no submodule behind a function."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.checkout import ROOT

WORDS = frozenset(
    (
        "Facts",
        "Held",
        "Hold",
        "Line",
        "Order",
        "Overruled",
        "Part",
        "Piece",
        "Place",
        "Repair",
        "Room",
        "Shelf",
        "Standing",
        "Telling",
        "UnderWay",
        "Wanted",
        "KEPT",
        "apart",
        "at",
        "back",
        "began_empty",
        "begin",
        "beginning",
        "breaches",
        "broke",
        "carry_out",
        "converge",
        "dealt",
        "doing",
        "figures",
        "fire",
        "flaw",
        "found",
        "foundations",
        "handover",
        "held",
        "hold",
        "holder",
        "lane",
        "leant_on",
        "left",
        "look",
        "mend_left",
        "own_routes",
        "parts",
        "patience",
        "patiently",
        "place",
        "room",
        "shelf",
        "shown",
        "spread",
        "standing",
        "told",
        "under_way",
        "unused",
        "wanted",
        "wish",
        "words",
        "would_mend",
        "zygote",
    )
)
"""Participles, adverbs and everyday words in place of what the value is."""

EXCEPTIONS = {
    ("mlops/cli/violations.py", "place"): "a key of --json",
    ("mlops/data/payload.py", "place"): "a key of --json",
    ("mlops/doctor/findings.py", "place"): "a key of --json",
    ("mlops/ledger/records.py", "at"): "a key of the ledger's lines",
    ("mlops/ledger/records.py", "Facts"): "the union of what records state",
    ("mlops/rollout/estimate.py", "parts"): "a key of --json",
    ("mlops/ui/charts.py", "left"): "the left edge of a chart",
}
PENDING = ("mlops/gate/", "mlops/local/")
"""Where names of the list still stand."""
PRODUCT = ("mlops", "components", "environments", "data", ".github")
FILES = sorted(file for folder in PRODUCT for file in (ROOT / folder).rglob("*.py") if ".venv" not in file.parts)
PACKAGES = [file for file in FILES if file.name == "__init__.py"]


def relative(file: Path) -> str:
    return file.relative_to(ROOT).as_posix()


def definitions(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Every name that is bound in a file, with its line."""
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                yield node.lineno, node.name
            case ast.arg():
                yield node.lineno, node.arg
            case ast.Name(ctx=ast.Store()):
                yield node.lineno, node.id
            case ast.Attribute(ctx=ast.Store()):
                yield node.lineno, node.attr
            case ast.alias(asname=str(name)):
                yield node.lineno, name
            case _:
                pass


def bound(tree: ast.Module) -> dict[str, str]:
    """The names of a module's namespace; for an import, the module that it comes from, else an empty text."""
    names: dict[str, str] = {}
    nodes: list[ast.AST] = list(tree.body)
    for node in nodes:
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)):
            nodes += ast.iter_child_nodes(node)
        match node:
            case ast.ImportFrom():
                names |= {entry.asname or entry.name: node.module or "" for entry in node.names}
            case ast.Import():
                names |= {entry.asname or entry.name.partition(".")[0]: entry.name for entry in node.names}
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                names[node.name] = ""
            case ast.Name(ctx=ast.Store()):
                names[node.id] = ""
            case _:
                pass
    return names


def offences(file: Path) -> list[str]:
    return [
        f"{relative(file)}:{line} {name}"
        for line, name in [(1, file.stem), *definitions(ast.parse(file.read_text(encoding="utf-8")))]
        if name in WORDS and (relative(file), name) not in EXCEPTIONS
    ]


def test_definitions_bear_no_name_of_the_list() -> None:
    offenders = [offence for file in FILES if not relative(file).startswith(PENDING) for offence in offences(file)]
    assert not offenders, "\n".join(offenders)


@pytest.mark.parametrize("folder", PENDING)
def test_what_is_pending_is(folder: str) -> None:
    assert any(offences(file) for file in FILES if relative(file).startswith(folder)), f"take '{folder}' off the list"


def test_every_exception_is_needed() -> None:
    for path, name in EXCEPTIONS:
        assert name in {name for _, name in definitions(ast.parse((ROOT / path).read_text(encoding="utf-8")))}, path


@pytest.mark.parametrize("file", PACKAGES, ids=relative)
def test_no_submodule_is_behind_a_function_of_its_name(file: Path) -> None:
    package = ".".join(file.parent.relative_to(ROOT).parts)
    submodules = {entry.stem for entry in file.parent.glob("*.py")} | {
        entry.parent.name for entry in file.parent.glob("*/__init__.py")
    }
    names = bound(ast.parse(file.read_text(encoding="utf-8")))
    assert not [name for name in submodules & names.keys() if names[name] not in (package, package.partition(".")[2])]
