"""Jobs of the local workspace: submitted here, run by a process of their own."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlops.local.jobs.part import JobsPart
    from mlops.local.workspace import Workspace


def install(workspace: Workspace) -> JobsPart:
    """The part of the daemon that takes, watches and cancels jobs."""
    from mlops.local.jobs.part import JobsPart

    return JobsPart(workspace)
