"""Every way a command ends badly, each with an exit code of its own.

A message says what happened, with the value in quotes; ``hint`` says what to do next; ``details`` are further lines
(a log's tail, a list of offending rows).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class FileLocation:
    """Where in a file something is wrong; ``line`` counts from 1."""

    file: str
    line: int | None = None

    def __str__(self) -> str:
        return self.file if self.line is None else f"{self.file}:{self.line}"


class MlopsError(Exception):
    """A failure that is explained to the user instead of shown as a traceback."""

    exit_code = 1

    def __init__(
        self,
        message: str,
        *,
        hint: str | None = None,
        details: Sequence[str] = (),
        location: FileLocation | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.details = tuple(details)
        self.location = location


class UsageError(MlopsError):
    """Wrong use of a command, or wrong settings."""

    exit_code = 2


class PreconditionError(MlopsError):
    """Something that must hold does not: quota, a retired SKU or model, a name that is taken, missing compute."""

    exit_code = 3


class DataInvalid(MlopsError):
    """Data or a payload breaks its rules."""

    exit_code = 4


class TrainingFailed(MlopsError):
    """A training job failed or was cancelled, or its model fell short of the evaluation."""

    exit_code = 5


class GateFailed(MlopsError):
    """The gate refused a deployment; traffic is where it was."""

    exit_code = 6


class GateUndecided(MlopsError):
    """The gate could not decide; a person has to."""

    exit_code = 7


class AzureError(MlopsError):
    """Azure refused, or broke and stayed broken after retries."""

    exit_code = 8


class NotFinishedYet(MlopsError):
    """Still running when the waiting time was over; come back."""

    exit_code = 9


class Interrupted(MlopsError):
    """Ctrl-C."""

    exit_code = 130


EXIT_CODES: dict[int, str] = {
    0: "done",
    1: "a bug in mlops",
    2: "wrong use or settings",
    3: "a precondition is not met (quota, retired SKU or model, name taken, compute missing)",
    4: "data or payload invalid",
    5: "training failed or was cancelled, or its model fell short of the evaluation",
    6: "the gate failed and traffic is where it was",
    7: "the gate could not decide",
    8: "Azure refused, or broke after retries",
    9: "not finished yet, come back",
    130: "interrupted",
}
