"""The map in ARCHITECTURE.md has every package, in the layer that the import contract gives it."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from tests.docs.documents import tracked
from tests.support.checkout import ROOT

PLACEHOLDERS = {"NAME", "PACKAGE", "ON", "CALL", "check_"}
TEXT = (ROOT / "mlops" / "ARCHITECTURE.md").read_text(encoding="utf-8")


def packages(folder: Path) -> set[str]:
    return {path.parent.name for path in folder.glob("*/__init__.py")}


def section(title: str) -> str:
    return TEXT.split(f"\n## {title}\n", 1)[1].split("\n## ", 1)[0]


def test_every_package_is_in_its_layer() -> None:
    written_layers = {name: int(number) for number, name in re.findall(r"^\| (\d+) \| `(\w+)` \|", TEXT, re.MULTILINE)}
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"][
        "contracts"
    ]
    layers = next(each["layers"] for each in contracts if each.get("containers") == ["mlops"])
    layer_numbers = {
        name.strip(): number
        for number, layer in enumerate(reversed(layers), start=1)
        for name in re.split(r"[|:]", layer)
        if name.strip() != "__main__"
    }

    assert written_layers == layer_numbers
    assert set(written_layers) == packages(ROOT / "mlops")


def test_every_package_of_the_local_workspace_and_of_the_tests_is_there() -> None:
    named = set(re.findall(r"^\| `(\w+)` \|", section("The map"), re.MULTILINE))
    tests = set(re.findall(r"`tests/(\w+)/`", section("The map")))

    assert named == packages(ROOT / "mlops" / "local")
    assert tests == {
        path.parts[0] for path in (each.relative_to(ROOT / "tests") for each in (ROOT / "tests").glob("*/**/*.py"))
    }


def test_the_glossary_is_short_and_names_no_word_twice() -> None:
    terms = re.findall(r"^\| ([^|]+) \|", section("Glossary"), re.MULTILINE)[1:]

    assert 20 <= len(terms) <= 40
    assert len(set(terms)) == len(terms)


def test_the_names_in_the_recipes_are_the_codes() -> None:
    """A class, function or constant that was renamed takes the recipe along."""
    files = tracked("mlops/*.py", "tests/*.py")
    code = "\n".join([*files, *((ROOT / name).read_text(encoding="utf-8") for name in files)])
    identifiers = {
        word for span in re.findall(r"`([^`]+)`", section("How to add")) for word in re.findall(r"\w+", span)
    }
    names = {word for word in identifiers if ("_" in word or word != word.lower()) and word not in PLACEHOLDERS}

    assert len(names) > 20
    assert {name for name in names if not re.search(rf"\b{re.escape(name)}\b", code)} == set()
