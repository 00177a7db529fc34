"""The settings file as it is written: a tree with its lines, the defaults merged with one target's values."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlops.core.errors import FileLocation, UsageError

if TYPE_CHECKING:
    import yaml

TOP = ("defaults", "targets")


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong, and its line."""

    line: int | None
    message: str


@dataclass(frozen=True, kw_only=True)
class SettingsFile:
    """What stands in the file.

    Attributes:
        tree: its content.
        lines: of each key, by its path.
        problems: what is wrong for every target.
    """

    path: Path
    tree: Mapping[str, Any]
    lines: Mapping[tuple[str, ...], int]
    problems: tuple[Problem, ...] = ()

    @property
    def targets(self) -> Mapping[str, Any]:
        """The section of each target; none where there is no such mapping."""
        sections = self.tree.get("targets")
        return {str(name): part for name, part in sections.items()} if isinstance(sections, Mapping) else {}

    def location(self, line: int | None) -> FileLocation:
        """A line as messages show it."""
        return FileLocation(file=self.path.name, line=line)

    def line(self, key: Sequence[str], target: str) -> int | None:
        """Where a key stands, in the target's section or else in the defaults; the nearest above it that does."""
        for depth in range(len(key), 0, -1):
            for top in (("targets", target), ("defaults",)):
                line = self.lines.get((*top, *key[:depth]))
                if line is not None:
                    return line
        return None

    def merged(self, target: str, known: Sequence[str]) -> tuple[dict[str, Any], list[Problem]]:
        """The defaults with a target's values over them; what is no section is a problem."""
        problems: list[Problem] = []
        layers: list[Mapping[str, Any]] = []
        sections = [(("defaults",), self.tree.get("defaults")), (("targets", target), self.targets.get(target))]
        for where, part in sections:
            if part is not None and not isinstance(part, Mapping):
                says = f"'{'.'.join(where)}' is '{part}'; it must hold sections such as 'data'"
                problems.append(Problem(self.lines.get(where), says))
                continue
            layers.append(part or {})
            problems += [
                Problem(self.lines.get((*where, str(key))), unknown(str(key), known))
                for key in part or {}
                if key not in known
            ]
        return merge(*layers) if len(layers) == 2 else {}, problems


def read(path: Path) -> SettingsFile:
    """Read the file.

    Raises:
        UsageError: it cannot be read, is not YAML or no mapping, or has a key twice.
    """
    import yaml

    location = FileLocation(file=path.name)
    try:
        text = path.read_text(encoding="utf-8")
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        tree = yaml.safe_load(text)
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot be read: {error}", location=location) from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = None if mark is None else mark.line + 1
        problem = getattr(error, "problem", None) or "not YAML"
        raise UsageError(f"not valid YAML: {problem}", location=FileLocation(file=path.name, line=line)) from None
    if not isinstance(tree, dict):
        raise UsageError("must be a mapping with 'defaults' and 'targets'", location=location)
    lines: dict[tuple[str, ...], int] = {}
    _number(node, (), lines, path)
    problems = [Problem(lines.get((str(key),)), unknown(str(key), TOP)) for key in tree if key not in TOP]
    targets = tree.get("targets")
    if targets is not None and not isinstance(targets, Mapping):
        problems.append(Problem(lines.get(("targets",)), f"'targets' is '{targets}'; it must hold the targets"))
    return SettingsFile(path=path, tree=tree, lines=lines, problems=tuple(problems))


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Mappings are merged, all other values replaced."""
    merged = dict(base)
    for key, value in over.items():
        inner = merged.get(key)
        nested = isinstance(inner, Mapping) and isinstance(value, Mapping)
        merged[key] = merge(inner, value) if nested and inner is not None else value
    return merged


def unknown(key: str, known: Sequence[str]) -> str:
    """What is said of a key that is not known."""
    return f"unknown key '{key}'" + (suggestion(key, known) or f"; known are {', '.join(known)}")


def suggestion(word: str, known: Sequence[str]) -> str:
    """``; did you mean 'gate'?``, or nothing."""
    close = close_to(word, known)
    return f"; {close}" if close else ""


def close_to(word: str, known: Sequence[str]) -> str:
    """``did you mean 'gate'?``, or nothing."""
    close = difflib.get_close_matches(word, known, n=1)
    return f"did you mean '{close[0]}'?" if close else ""


def _number(node: yaml.Node | None, parent: tuple[str, ...], lines: dict[tuple[str, ...], int], path: Path) -> None:
    import yaml

    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            where = (*parent, str(key.value))
            if where in lines:
                location = FileLocation(file=path.name, line=key.start_mark.line + 1)
                raise UsageError(f"the key '{key.value}' stands here a second time", location=location)
            lines[where] = key.start_mark.line + 1
            _number(value, where, lines, path)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            lines[(*parent, str(index))] = value.start_mark.line + 1
