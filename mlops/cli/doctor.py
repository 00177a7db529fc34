"""mlops doctor: what would stand in the way, before money is spent."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from mlops.cli.options import Run, command

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import RenderableType

    from mlops.core.console import Console
    from mlops.doctor import Finding, Report

DETAILS, CHARACTERS = 4, 140
"""So much of what a check adds is on the screen; --json has all of it."""
GATHERED = 3
COLOURS = {"good": "green", "doubtful": "yellow", "bad": "red", "skipped": "dim"}


@command(
    example="""
mlops doctor                            # this machine, the local workspace
mlops doctor -t staging                 # before money is spent on Azure
mlops doctor -t staging --only quota    # one check, and what it needs
"""
)
@click.option(
    "--only", multiple=True, metavar="NAME", help="Run only this check and the checks it depends on; can be repeated."
)
@click.pass_context
def doctor(context: click.Context, run: Run, only: tuple[str, ...]) -> None:
    """Check the prerequisites of training and deployment.

    It changes nothing.

    A line with ✕ says what would fail and what to do, and makes the exit code 3; one with ! is worth knowing. The
    checks run at the same time, each with a time limit of its own.
    """
    from mlops import doctor
    from mlops.core.errors import PreconditionError

    with _shown(run.console, run.target):
        report = doctor.examine(run.target, run.console, only=only)
    run.console.result(as_data(report), as_table(report), outputs={"sound": report.sound}, summary=as_markdown(report))
    annotate(run.console, report)
    if not report.sound:
        context.exit(PreconditionError.exit_code)


def _shown(console: Console, target: str) -> Any:
    """A spinner where somebody sits before it."""
    import contextlib
    import sys

    if console.quiet or console.as_json or not sys.stderr.isatty():
        return contextlib.nullcontext()
    return console.err.status(f"looking at '{target}'")


def as_data(report: Report) -> dict[str, Any]:
    """The report for --json."""
    from mlops.doctor import Mark

    return {
        "target": report.target,
        "sound": report.sound,
        "counts": {mark.value: report.count(mark) for mark in Mark},
        "seconds": round(report.seconds, 1),
        "findings": report.findings,
    }


def as_table(report: Report) -> RenderableType:
    """One line per finding; under one that is not well, what to do."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    from mlops.doctor import SIGNS, Mark

    table = Table(box=None, pad_edge=False, show_header=False, padding=(0, 1))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    before = ""
    for each in _gathered(report.findings):
        text = Text(f"{each.place}: {each.what}" if each.place else each.what)
        for line in each.details[:DETAILS]:
            text.append(f"\n{line if len(line) <= CHARACTERS else line[: CHARACTERS - 1] + '…'}")
        if each.hint:
            text.append(f"\n→ {each.hint}", style="dim")
        if each.mark is Mark.SKIPPED:
            text.stylize("dim")
        name = "" if each.check == before else each.check
        table.add_row(Text(SIGNS[each.mark], style=COLOURS[each.mark.value]), Text(name), text)
        before = each.check
    return Group(table, Text(f"\n{conclusion(report)}"))


def _gathered(findings: Sequence[Finding]) -> list[Finding]:
    """The findings, those that were not looked at for one and the same reason in one line."""
    from dataclasses import replace

    from mlops.doctor import Mark

    names: dict[str, list[str]] = {}
    for each in findings:
        if each.mark is Mark.SKIPPED:
            names.setdefault(each.what, []).append(each.check)
    lines = []
    for each in findings:
        of = names.get(each.what, [])
        if each.mark is not Mark.SKIPPED or len(of) < GATHERED:
            lines.append(each)
        elif each.check == of[0]:
            lines.append(replace(each, check="", what=f"{each.what}: {', '.join(of)}"))
    return lines


def conclusion(report: Report) -> str:
    """The last line."""
    from mlops.doctor import Mark

    counted = [
        f"{report.count(mark)} {word}"
        for mark, word in ((Mark.BAD, "✕"), (Mark.DOUBTFUL, "!"), (Mark.GOOD, "✓"), (Mark.SKIPPED, "–"))
        if report.count(mark)
    ]
    verdict = "nothing stands in the way" if report.sound else "what is marked ✕ would fail"
    return f"{report.target}: {verdict} ({', '.join(counted)}; {report.seconds:.1f} s)"


def as_markdown(report: Report) -> str:
    """The report for the job summary."""
    from mlops.core.console import markdown_table
    from mlops.doctor import SIGNS

    rows: list[list[Any]] = [[SIGNS[each.mark], each.check, _cell(each)] for each in report.findings]
    return f"### Doctor: {conclusion(report)}\n\n{markdown_table(['', 'check', 'found'], rows)}"


def _cell(each: Finding) -> str:
    lines = [f"{each.place}: {each.what}" if each.place else each.what, *each.details]
    return " · ".join([*lines, *([f"→ {each.hint}"] if each.hint else [])])


def annotate(console: Console, report: Report) -> None:
    """What is not well, as annotations of the job; nothing outside GitHub."""
    from mlops.doctor import Mark

    if not console.on_github:
        return
    for each in report.findings:
        level = {Mark.BAD: "error", Mark.DOUBTFUL: "warning"}.get(each.mark)
        if level:
            hint = f"; {each.hint}" if each.hint else ""
            console.annotate(level, f"{each.check}: {each.what}{hint}", location=each.place)
