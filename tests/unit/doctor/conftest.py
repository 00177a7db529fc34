"""A workspace to look at, and a doctor whose settings a test may choose."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from mlops.config.settings import Settings, load
from mlops.core.console import Console
from mlops.doctor import CHECKS, Finding, Mark, examine
from mlops.doctor.context import CheckContext
from mlops.doctor.findings import good
from mlops.doctor.runner import Check
from tests.integration.conftest import home
from tests.support.checkout import ROOT
from tests.support.waiting import HANG_S

__all__ = ["ROOT", "home"]

Examine = Callable[..., dict[str, list[Finding]]]


def settings_of(target: str = "local", **sections: dict[str, Any]) -> Settings:
    """A target's settings, with single values of its sections changed."""
    settings = load(target, ROOT / "mlops.yaml")
    changed = {name: getattr(settings, name).model_copy(update=values) for name, values in sections.items()}
    return settings.model_copy(update=changed)


@pytest.fixture(name="examine")
def examine_settings() -> Examine:
    """Examine settings; the findings by check. Every other check is the doctor's own."""

    def run_checks(settings: Settings, *only: str, limits: dict[str, float] | None = None) -> dict[str, list[Finding]]:
        def use_settings(context: CheckContext) -> Finding:
            context.settings = settings
            return good("of the test")

        checks: list[Check] = [
            replace(check, inspect=use_settings)
            if check.name == "settings"
            else replace(check, limit_s=(limits or {}).get(check.name, HANG_S))
            for check in CHECKS
        ]
        report = examine(settings.target, Console(quiet=True), only=only, checks=checks)
        by_check: dict[str, list[Finding]] = {}
        for each in report.findings:
            by_check.setdefault(each.check, []).append(each)
        return by_check

    return run_checks


def as_staging(monkeypatch: pytest.MonkeyPatch, **variables: str) -> None:
    """This process before the local workspace as if it were Azure."""
    from mlops.azure.session import enter_local_workspace

    before = dict(os.environ)
    enter_local_workspace()
    entered = dict(os.environ)
    os.environ.clear()
    os.environ.update(before)
    for name in set(before) - set(entered):
        monkeypatch.delenv(name)
    for name, value in {**entered, **variables}.items():
        monkeypatch.setenv(name, value)


def only(findings: dict[str, list[Finding]], check: str) -> Finding:
    """The one finding of a check."""
    (each,) = findings[check]
    return each


def marks(findings_by_check: dict[str, list[Finding]]) -> dict[str, Mark]:
    """The first finding's mark, by check."""
    return {name: findings[0].mark for name, findings in findings_by_check.items()}
