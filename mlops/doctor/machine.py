"""What this machine brings: Python, packages, settings."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from mlops.core.errors import MlopsError, Place
from mlops.doctor.facts import Facts
from mlops.doctor.findings import Finding, Mark, bad, doubtful, good, skipped

OLDEST, NEWEST = (3, 11), (3, 13)
"""Versions of Python that the requirement files are resolved for."""
PIN = re.compile(r"^(?P<name>[A-Za-z0-9][\w.-]*)==(?P<version>[^\s;\\]+)(?:\s*;\s*(?P<marker>[^\\]+))?")
NAMED = 6
"""So many packages are named, the others counted."""


def python(_facts: Facts) -> Finding:
    """The interpreter's version against what the locks are made for."""
    return python_found(sys.version_info[:3])


def python_found(version: tuple[int, int, int]) -> Finding:
    """What is said of a version of Python."""
    said = ".".join(str(part) for part in version)
    wanted = f"{OLDEST[0]}.{OLDEST[1]} to {NEWEST[0]}.{NEWEST[1]}"
    if version[:2] < OLDEST:
        return bad(f"Python '{said}' is too old; {wanted} is needed", "make PYTHON=python3.11 install")
    if version[:2] > NEWEST:
        return doubtful(f"Python '{said}' is newer than what the packages are locked for, {wanted}")
    return good(f"{said}")


def settings(facts: Facts) -> Finding:
    """The target's section of the settings file."""
    from mlops.config.settings import find_file, load

    path = find_file()
    facts.settings = load(facts.target, path)
    return good(f"the target '{facts.target}' of {path.name}")


def values(facts: Facts) -> Finding | list[Finding]:
    """What the settings name: metrics, parameters, files; sizes are looked at with the region's."""
    from mlops.doctor import settings_check

    path, targets, problems = settings_check.check()
    elsewhere = set(_retired(facts))
    found = [
        bad(problem.message, "mlops settings check", place=Place(file=path.name, line=problem.line))
        for problem in problems
        if problem.message not in elsewhere
    ]
    return found or good(f"metrics, parameters and files of {', '.join(targets)}")


def _retired(facts: Facts) -> Iterator[str]:
    """What is said of retired sizes, which have lines of their own."""
    from mlops.machines import catalogue

    for size in (facts.settings.compute.size, facts.settings.deployment.instance_type):
        try:
            catalogue.check_size(size)
        except MlopsError as error:
            yield "; ".join(filter(None, [error.message, error.hint]))


def packages(facts: Facts) -> Finding:
    """What is installed against the requirement file that this machine was set up by."""
    folder = facts.settings.root / "environments"
    whole = facts.settings.is_local or _installed("torch") is not None
    lock = folder / ("local" if whole else "cli") / "requirements.txt"
    if not lock.is_file():
        return skipped(f"not looked at: no '{lock.relative_to(facts.settings.root)}' beside the settings")
    return compared(lock, install="make install" if whole else "make install-cli")


def compared(lock: Path, *, install: str) -> Finding:
    """What is said of the packages that a requirement file pins."""
    from packaging.markers import Marker

    missing, others, count = [], [], 0
    for line in lock.read_text(encoding="utf-8").splitlines():
        pin = PIN.match(line)
        if pin is None or (pin["marker"] and not Marker(pin["marker"].strip()).evaluate()):
            continue
        count += 1
        version = _installed(pin["name"])
        if version is None:
            missing.append(pin["name"])
        elif version.partition("+")[0] != pin["version"].partition("+")[0]:
            others.append(f"{pin['name']} is {version}, not {pin['version']}")
    name = f"environments/{lock.parent.name}/{lock.name}"
    if missing:
        return Finding(
            mark=Mark.BAD,
            what=f"{len(missing)} of {count} packages of {name} are missing",
            hint=install,
            details=_some(missing),
        )
    if others:
        return Finding(
            mark=Mark.DOUBTFUL,
            what=f"{len(others)} of {count} packages are not as locked in {name}",
            hint=install,
            details=_some(others),
        )
    return good(f"{count} as locked in {name}")


def _some(lines: list[str]) -> tuple[str, ...]:
    more = len(lines) - NAMED
    return (*lines[:NAMED], *([f"and {more} more"] if more > 0 else []))


def _installed(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
