"""Checks that run at the same time, each with its own time limit; one that hangs or breaks is a finding.

A check begins as soon as those that it needs have ended well. Its thread is left behind where it does not end: nothing
can stop it, and the process ends without it.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from mlops.core.errors import MlopsError
from mlops.core.interrupts import stay_interruptible
from mlops.doctor.findings import Finding, Mark, bad, refused, skipped

LIMIT_S = 30.0
BUG = "a bug in mlops; the other checks stand"

Findings = Finding | Iterable[Finding]


@dataclass(frozen=True, kw_only=True)
class Check:
    """Something to look at.

    Attributes:
        name: as ``--only`` takes it.
        inspect: finds something in the context, or raises what a command would be refused with.
        after: the checks without which there is nothing to look at.
        follows: checks that it waits for, however they end.
        gives: what those that need this one lack where it fails, in words.
        limit_s: how long it may take.
        quiet: only reads for others; where all is well, nobody needs to see it.
    """

    name: str
    inspect: Callable[[Any], Findings]
    after: tuple[str, ...] = ()
    follows: tuple[str, ...] = ()
    gives: str = ""
    limit_s: float = LIMIT_S
    quiet: bool = False


@dataclass
class _Course:
    """The state of one run."""

    waiting: list[Check]
    lost: dict[str, str] = field(default_factory=dict)
    """Checks that did not end well, with what is lacking for it."""
    findings: dict[str, list[Finding]] = field(default_factory=dict)
    running: dict[str, tuple[Check, float]] = field(default_factory=dict)

    def take(self, check: Check, findings: Iterable[Finding]) -> None:
        """Note what a check found."""
        self.findings[check.name] = [each.by(check.name) for each in findings]
        self.running.pop(check.name, None)
        if any(each.mark in (Mark.BAD, Mark.SKIPPED) for each in self.findings[check.name]):
            self.lost[check.name] = check.gives or f"no {check.name}"


def run(checks: Sequence[Check], context: Any) -> list[Finding]:
    """Run the checks on the context; the findings in the checks' order.

    Args:
        checks: none needs one that is not among them, or comes after it.
        context: what the checks share; each writes what it found for those that need it.
    """
    stay_interruptible()
    course, done = _Course(list(checks)), queue.SimpleQueue[tuple[Check, list[Finding]]]()
    while course.waiting or course.running:
        _begin(course, done, context)
        if not course.running:
            continue
        until = min(end for _, end in course.running.values())
        try:
            check, findings = done.get(timeout=max(0.0, until - time.monotonic()))
        except queue.Empty:
            _give_up(course)
        else:
            if check.name in course.running:  # else it ended after it was given up
                course.take(check, findings)
    return [
        each
        for check in checks
        for each in course.findings[check.name]
        if not (check.quiet and each.mark in (Mark.GOOD, Mark.SKIPPED))
    ]


def _begin(course: _Course, done: queue.SimpleQueue[tuple[Check, list[Finding]]], context: Any) -> None:
    """Begin what can begin, and let go of what cannot any more."""
    for check in list(course.waiting):
        dependency = next((name for name in check.after if name in course.lost), None)
        if dependency is not None:
            course.waiting.remove(check)
            course.take(check, [skipped(f"not looked at: {course.lost[dependency]}")])
            course.lost[check.name] = course.lost[dependency]  # what was missing first is what there is to mend
        elif all(name in course.findings for name in (*check.after, *check.follows)):
            course.waiting.remove(check)
            course.running[check.name] = (check, time.monotonic() + check.limit_s)
            threading.Thread(
                target=lambda check=check: done.put((check, _findings(check, context))), name=check.name, daemon=True
            ).start()


def _findings(check: Check, context: Any) -> list[Finding]:
    """What the check finds, whatever happens."""
    try:
        result = check.inspect(context)
        if isinstance(result, Finding):
            return [result]
        return list(result) or [bad("this check found nothing to say", BUG)]
    except MlopsError as error:
        return [refused(error)]
    except Exception as error:
        return [bad(f"this check broke: {type(error).__name__}: {error}", BUG)]


def _give_up(course: _Course) -> None:
    """Let go of the checks whose time is over."""
    now = time.monotonic()
    for check, end in list(course.running.values()):
        if end <= now:
            course.take(check, [bad(f"no answer within {check.limit_s:g} s", "try again; is the network slow?")])


def needed(checks: Sequence[Check], names: Iterable[str]) -> list[Check]:
    """The named checks and all that they need, in order."""
    by_name, selected, todo = {check.name: check for check in checks}, set[str](), list(names)
    while todo:
        name = todo.pop()
        if name not in selected:
            selected.add(name)
            todo += [*by_name[name].after, *by_name[name].follows]
    return [check for check in checks if check.name in selected]
