"""The table for people: totals by fault, violations first, and fault × place for each kind of release."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from tests.fault_injection.cases import FAULTS
from tests.fault_injection.runner import Result, plain

SHORT = {None: "†", 0: "✓"}


def cell(result: Result) -> str:
    """Exit code (✓ is 0, † killed) and what the traffic was on afterwards."""
    text = f"{SHORT.get(result.code, result.code)} {result.traffic}"
    if not result.struck:
        text = f"({text})"
    return f"**✗ {text}**" if result.violations else text


def markdown(results: Sequence[Result], *, seconds: float) -> str:
    """The whole report."""
    wrong = [result for result in results if result.violations]
    again = sum(result.again in (0, 6) for result in results)
    lines = [
        "# A rollout under faults",
        "",
        f"{len(results)} rollouts with one fault each, in {seconds / 60:.1f} minutes: {len(results) - len(wrong)} "
        f"ended as they must, {len(wrong)} did not; {again} times one more deploy ended as it must.",
        "",
        "A cell is the exit code (✓ is 0, † was killed) and the version that live traffic was on afterwards; in "
        "brackets where the fault did not come to strike.",
        "",
        *totals(results),
    ]
    if wrong:
        lines += ["", "## What must not be", ""]
        lines += [f"- {each.story}: {each.fault}: {each.place}: {'; '.join(each.violations)}" for each in wrong]
    for story in dict.fromkeys(result.story for result in results):
        lines += ["", f"## {story.capitalize()}", "", *matrix([each for each in results if each.story == story])]
    return "\n".join(lines) + "\n"


def totals(results: Sequence[Result]) -> list[str]:
    """One row per fault."""
    lines = ["| fault | rollouts | struck | exit codes | traffic afterwards | wrong |", "|---|---|---|---|---|---|"]
    for fault in FAULTS:
        some = [result for result in results if result.fault == fault]
        if not some:
            continue
        codes = Counter(result.outcome for result in some)
        traffic = Counter(result.traffic for result in some)
        counts = [", ".join(f"{name} {count}" for name, count in counter.most_common()) for counter in (codes, traffic)]
        struck, wrong = sum(result.struck for result in some), sum(bool(result.violations) for result in some)
        lines.append(f"| {fault} | {len(some)} | {struck} | {counts[0]} | {counts[1]} | {wrong} |")
    return lines


def matrix(results: Sequence[Result]) -> list[str]:
    """Places down, faults across."""
    faults = [fault for fault in FAULTS if any(result.fault == fault for result in results)]
    table = {(result.place, result.fault): cell(result) for result in results}
    lines = [f"| what has happened: the call | {' | '.join(faults)} |", "|---|" + "---|" * len(faults)]
    for point in dict.fromkeys(result.place for result in results):
        cells = [table.get((point, fault), "") for fault in faults]
        lines.append(f"| {point} | {' | '.join(cells)} |")
    return lines


def write(results: Sequence[Result], path: Path, *, seconds: float) -> None:
    """Markdown at that place, JSON beside it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(markdown(results, seconds=seconds), encoding="utf-8")
    document = {"schema_version": 1, "seconds": round(seconds, 1), "results": plain(results)}
    path.with_suffix(".json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
