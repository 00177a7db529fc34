"""What came out of a run, for the tests to look at."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SHOWN = 10
"""Annotations of a level that GitHub shows of one step."""


@dataclass(frozen=True)
class Annotation:
    """What GitHub shows beside a line of a file."""

    level: str
    message: str
    file: str | None = None
    line: int | None = None
    title: str | None = None


@dataclass
class StepRecord:
    """One step; outcome is what happened, conclusion what counts after continue-on-error."""

    name: str
    id: str
    outcome: str = "skipped"
    conclusion: str = "skipped"
    log: str = ""
    code: int | None = None
    outputs: dict[str, str] = field(default_factory=dict)
    annotations: list[Annotation] = field(default_factory=list)
    summary: str = ""
    seconds: float = 0.0
    inner: list[StepRecord] = field(default_factory=list)

    @property
    def visible_annotations(self) -> list[Annotation]:
        """The annotations that GitHub shows: the first ten of each level."""
        levels = dict.fromkeys(each.level for each in self.annotations)
        return [each for level in levels for each in [a for a in self.annotations if a.level == level][:SHOWN]]


@dataclass
class JobRecord:
    """One job, or one of a matrix."""

    id: str
    name: str
    result: str = "skipped"
    steps: list[StepRecord] = field(default_factory=list)
    outputs: dict[str, str] = field(default_factory=dict)
    environment: str | None = None
    url: str | None = None
    deployment: bool = False
    concurrency: dict[str, Any] = field(default_factory=dict)
    permissions: dict[str, str] = field(default_factory=dict)
    may_ask_for_token: bool = False
    matrix: dict[str, Any] = field(default_factory=dict)
    called: Run | None = None
    seconds: float = 0.0

    def step(self, name: str) -> StepRecord:
        """By its name or id."""
        for each in self.steps:
            if name in (each.name, each.id):
                return each
        raise LookupError(f"no step '{name}' in the job '{self.name}': {[each.name for each in self.steps]}")

    @property
    def summary(self) -> str:
        """The job summary."""
        return "".join(step.summary for step in self.steps)

    @property
    def log(self) -> str:
        """Every step's log, each under its name."""
        return "".join(f"== {step.name} [{step.outcome}]\n{step.log}" for step in self.steps)


@dataclass
class Run:
    """One run of a workflow."""

    workflow: str
    name: str
    artifacts: Path
    number: int = 0
    conclusion: str = "success"
    jobs: list[JobRecord] = field(default_factory=list)
    outputs: dict[str, str] = field(default_factory=dict)
    concurrency: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0

    def job(self, path: str) -> JobRecord:
        """By its id; `deploy/deploy` is the job of a called workflow."""
        first, _, rest = path.partition("/")
        for each in self.jobs:
            if first in (each.id, each.name):
                if not rest:
                    return each
                assert each.called is not None, f"'{first}' calls no workflow"
                return each.called.job(rest)
        raise LookupError(f"no job '{path}' in {self.workflow}: {[each.name for each in self.jobs]}")

    def every_job(self) -> Iterator[JobRecord]:
        """Those of called workflows too."""
        for each in self.jobs:
            yield each
            if each.called is not None:
                yield from each.called.every_job()

    @property
    def annotations(self) -> list[Annotation]:
        """All that GitHub shows."""
        return [each for job in self.every_job() for step in job.steps for each in step.visible_annotations]

    @property
    def summary(self) -> str:
        """All job summaries."""
        return "".join(job.summary for job in self.every_job())

    def __str__(self) -> str:
        lines = [f"{self.workflow}: {self.conclusion}"]
        for job in self.every_job():
            lines.append(f"  {job.name}: {job.result} ({job.seconds:.1f} s)")
            lines += [f"    {step.name}: {step.outcome} ({step.seconds:.1f} s)" for step in job.steps]
            for step in job.steps:
                if step.outcome == "failure":
                    lines.append("\n".join(f"      | {line}" for line in step.log.splitlines()[-60:]))
        return "\n".join(lines)
