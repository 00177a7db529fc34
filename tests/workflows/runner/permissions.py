"""What a job's token may do; a called workflow never gets more than its caller has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tests.workflows.runner.files import Invalid, Unknown

LEVELS = {"none": 0, "read": 1, "write": 2}
DEFAULT = {"contents": "read", "packages": "read"}
"""Where a file says nothing, in a repository made today."""


def of_job(job: Any, workflow: Any, ceiling: Mapping[str, str] | None) -> dict[str, str]:
    """A job's permissions: its own, else the workflow's, else the caller's or the default ones.

    Args:
        job: what the job says, None where it says nothing.
        workflow: what the top of the file says.
        ceiling: of a called workflow, what the calling job has.

    Raises:
        Invalid: the called workflow asks for more than its caller may give; GitHub does not start such a run.
    """
    declared = job if job is not None else workflow
    if declared is None:
        return dict(DEFAULT if ceiling is None else ceiling)
    if isinstance(declared, str):
        raise Unknown(f"the runner does not know 'permissions: {declared}'")
    permissions = {name: level for name, level in declared.items() if level != "none"}
    for name, level in permissions.items():
        allowed = level if ceiling is None else ceiling.get(name, "none")
        if LEVELS[level] > LEVELS[allowed]:
            raise Invalid(f"a called job requests '{name}: {level}', but is only allowed '{name}: {allowed}'")
    return permissions
