"""What would stand in the way, looked at before money is spent.

Each check calls what the commands themselves call: a training is refused for what `train` would refuse it for, by the
same functions (:mod:`mlops.training.preflight`, :mod:`mlops.rollout.preflight`, :mod:`mlops.machines.catalogue`,
:mod:`mlops.machines.quota`).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from mlops.config.document import close_to
from mlops.core.errors import UsageError
from mlops.doctor import access, github, machine, machines, models, rights, serving
from mlops.doctor.context import CheckContext
from mlops.doctor.findings import SIGNS, Finding, Mark, Report
from mlops.doctor.runner import Check, needed, run

if TYPE_CHECKING:
    from mlops.core.console import Console

__all__ = ["CHECKS", "SIGNS", "Finding", "Mark", "Report", "examine"]

LOGIN_S = 60.0
"""The local workspace may have to start, and a chain of credentials be tried."""
BROWSER_S = 300.0

CHECKS = (
    Check(name="python", inspect=machine.python),
    Check(name="settings", inspect=machine.settings, gives="no settings"),
    Check(name="values", inspect=machine.values, after=("settings",)),
    Check(name="packages", inspect=machine.packages, after=("settings",)),
    Check(
        name="login",
        inspect=access.login,
        after=("settings",),
        gives="no login",
        limit_s=BROWSER_S if access.interactive() else LOGIN_S,
    ),
    Check(name="subscription", inspect=access.subscription, after=("login",), gives="no subscription"),
    Check(name="workspace", inspect=access.workspace, after=("subscription",), gives="no workspace"),
    Check(name="rights", inspect=rights.rights, after=("workspace",)),
    Check(name="region", inspect=machines.region, after=("workspace",)),
    Check(name="usage", inspect=machines.usage, after=("workspace",), quiet=True),
    Check(name="registry", inspect=models.registry, after=("login",), gives="no registry"),
    Check(name="base-model", inspect=models.base_model, after=("login",), follows=("registry",)),
    Check(name="cluster", inspect=machines.cluster, after=("workspace",), gives="no cluster that takes jobs"),
    Check(
        name="training-size",
        inspect=machines.training_size,
        after=("cluster",),
        follows=("region", "base-model"),
        gives="no size to train on",
    ),
    Check(
        name="serving-size",
        inspect=machines.serving_size,
        after=("workspace",),
        follows=("region", "base-model"),
        gives="no size to serve on",
    ),
    Check(name="endpoint", inspect=serving.endpoint, after=("workspace",)),
    Check(name="quota", inspect=machines.cores, after=("training-size", "serving-size"), follows=("endpoint", "usage")),
    Check(
        name="pipeline", inspect=models.pipeline, after=("login",), follows=("registry", "base-model", "training-size")
    ),
    Check(name="identity", inspect=rights.identity, after=("workspace",), follows=("endpoint",)),
    Check(name="github", inspect=github.variables, after=("settings",), limit_s=40.0),
)
"""In the order of the screen."""


def examine(target: str, console: Console, *, only: Sequence[str] = (), checks: Sequence[Check] = CHECKS) -> Report:
    """Look at a target.

    Args:
        target: of mlops.yaml.
        console: for what a login has to say.
        only: names of checks; what they need is looked at as well, and shown where it is not well.
        checks: to choose from.

    Raises:
        UsageError: there is no such check.
    """
    names = [check.name for check in checks]
    unknown = next((name for name in only if name not in names), None)
    if unknown is not None:
        raise UsageError(
            f"there is no check '{unknown}'", hint=close_to(unknown, names) or f"there are {', '.join(names)}"
        )
    start = time.monotonic()
    findings = run(needed(checks, only) if only else checks, CheckContext(target=target, console=console))
    selected = [each for each in findings if not only or each.check in only or each.mark is Mark.BAD]
    return Report(target=target, findings=tuple(selected), seconds=time.monotonic() - start)
