"""What this machine brings: Python, packages, settings."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from mlops.core.errors import FileLocation, MlopsError
from mlops.doctor.context import CheckContext
from mlops.doctor.findings import Finding, Mark, bad, doubtful, good, skipped

OLDEST, NEWEST = (3, 11), (3, 13)
"""Versions of Python that the requirement files are resolved for."""
PIN = re.compile(r"^(?P<name>[A-Za-z0-9][\w.-]*)==(?P<version>[^\s;\\]+)(?:\s*;\s*(?P<marker>[^\\]+))?")
NAMED = 6
"""So many packages are named, the others counted."""


def python(_context: CheckContext) -> Finding:
    """The interpreter's version against what the locks are made for."""
    return python_found(sys.version_info[:3])


def python_found(version: tuple[int, int, int]) -> Finding:
    """What is said of a version of Python."""
    version_text = ".".join(str(part) for part in version)
    supported = f"{OLDEST[0]}.{OLDEST[1]} to {NEWEST[0]}.{NEWEST[1]}"
    if version[:2] < OLDEST:
        return bad(f"Python '{version_text}' is too old; {supported} is needed", "make PYTHON=python3.11 install")
    if version[:2] > NEWEST:
        return doubtful(f"Python '{version_text}' is newer than what the packages are locked for, {supported}")
    return good(f"{version_text}")


def settings(context: CheckContext) -> Finding:
    """The target's section of the settings file."""
    from mlops.config.settings import find_file, load

    path = find_file()
    context.settings = load(context.target, path)
    return good(f"the target '{context.target}' of {path.name}")


def values(context: CheckContext) -> Finding | list[Finding]:
    """What the settings name: metrics, parameters, files; sizes are looked at with the region's."""
    from mlops.doctor import settings_check

    path, targets, problems = settings_check.check()
    elsewhere = set(_retired(context))
    lines = [
        bad(problem.message, "mlops settings check", location=FileLocation(file=path.name, line=problem.line))
        for problem in problems
        if problem.message not in elsewhere
    ]
    return lines or good(f"metrics, parameters and files of {', '.join(targets)}")


def _retired(context: CheckContext) -> Iterator[str]:
    """What is said of retired sizes, which have lines of their own."""
    from mlops.machines import catalogue

    for size in (context.settings.compute.size, context.settings.deployment.instance_type):
        try:
            catalogue.check_size(size)
        except MlopsError as error:
            yield "; ".join(filter(None, [error.message, error.hint]))


def packages(context: CheckContext) -> Finding:
    """What is installed against the requirement file that this machine was set up by."""
    folder = context.settings.root / "environments"
    whole = context.settings.is_local or _installed("torch") is not None
    lock = folder / ("local" if whole else "cli") / "requirements.txt"
    if not lock.is_file():
        return skipped(f"not looked at: no '{lock.relative_to(context.settings.root)}' beside the settings")
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
