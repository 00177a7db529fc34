"""Every target's settings, checked as far as that goes without Azure."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from mlops import gate
from mlops.config.document import Problem, read
from mlops.config.settings import find_file, load_all
from mlops.core.errors import MlopsError
from mlops.machines import catalogue
from mlops.training import submit

if TYPE_CHECKING:
    from mlops.config.settings import Settings


def check(path: Path | None = None) -> tuple[Path, list[str], list[Problem]]:
    """Look at every target, its names of metrics, sizes, parameters and files included.

    Returns:
        The file, the names of its targets, and what is wrong, by line, each once.

    Raises:
        UsageError: the file is missing or not YAML.
    """
    path = path or find_file()
    file = read(path)
    settings, problems = load_all(path)
    for target, target_settings in settings.items():
        for key, message in _looked_through(target_settings):
            problems.append(Problem(file.line(key, target), message))
    unique = sorted(dict.fromkeys(problems), key=lambda problem: problem.line or 0)
    return path, sorted(file.targets), unique


def _looked_through(settings: Settings) -> Iterator[tuple[tuple[str, ...], str]]:
    """What is wrong with a target whose values have the right form: the key, and what is said of it."""
    checks: list[tuple[tuple[str, ...], Callable[[], None]]] = [
        (("gate",), lambda: gate.validate(settings.gate)),
        (("training", "parameters"), lambda: submit.check_parameters(settings.training.parameters)),
        (("compute", "size"), lambda: catalogue.check_size(settings.compute.size)),
        (("deployment", "instance_type"), lambda: catalogue.check_size(settings.deployment.instance_type)),
    ]
    for key, inspect in checks:
        try:
            inspect()
        except MlopsError as error:
            yield key, "; ".join(filter(None, [error.message, error.hint]))
    slot = settings.deployment
    server = slot.server
    for name, path in (("environment", server.environment), ("scoring_script", slot.code / server.script)):
        if not (settings.root / path).is_file():
            yield ("deployment", name), f"there is no '{path}' in '{settings.root.name}'"
