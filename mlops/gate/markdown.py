"""The report in words: a line for the terminal, Markdown for the job summary, the errors of a refusal."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from mlops.core.console import markdown_table
from mlops.core.errors import GateFailed, GateUndecided
from mlops.gate.comparison import Comparison
from mlops.gate.judge import Check
from mlops.gate.measurement import Measured, percentile
from mlops.gate.quality import title
from mlops.gate.report import Report, Soak, WorstAnswer, cut

HEADS = {"pass": "✓ passed", "fail": "✕ failed", "inconclusive": "? could not decide"}
VIOLATIONS = {
    "shape": "not of the agreed shape",
    "empty": "empty",
    "echo": "an echo of the prompt",
    "repeats": "ends in a run of repeats",
    "http": "an HTTP error",
}
NEW_COLOUR, LIVE_COLOUR = "#0072B2", "#E69F00"
"""Blue and orange of Okabe and Ito's palette, which people with any kind of colour vision tell apart."""
SHARES = (10, 25, 50, 75, 90, 95, 99)


def summary_line(report: Report) -> str:
    """The report in one line, short enough to follow a step's title."""
    candidate = report.candidate
    parts = [f"{title(name)} {number(value)}" for name, value in candidate.scores.items()]
    if any(item.verdict == "inconclusive" and item.decisive for item in report.comparisons):
        parts.append("difference unclear")
    return ", ".join([*parts, f"p95 {number(candidate.p95_ms)} ms"])


def refusal(report: Report, folder: Path | None) -> GateFailed:
    """The error for a report that did not pass: what was missed, and where the rest stands."""
    missed = [
        f"{item.title} is {value(item)}, required: {threshold(item)}" for item in report.checks if not item.passed
    ]
    missed += [
        f"{item.title} is {span(item)}, maximum allowed loss: {item.max_loss:g}"
        for item in report.comparisons
        if item.verdict == "fail" and item.decisive
    ]
    slot = report.candidate.slot
    return GateFailed(
        f"the gate refused {report.model} in {slot}; traffic is as it was",
        details=[*missed, *report.notes, *([f"report and the slot's logs: {folder}"] if folder else [])],
        hint=f"the slot stays at 0 % for inspection: mlops endpoint logs --slot {slot} --endpoint {report.endpoint}",
    )


def undecided(report: Report, folder: Path | None) -> GateUndecided:
    """The error for a report that is inconclusive: what is unclear, and how a person decides."""
    unclear = [
        f"{item.title} is {span(item)}: the allowed loss of {item.max_loss:g} lies within"
        for item in report.comparisons
        if item.verdict == "inconclusive" and item.decisive
    ]
    asked = report.candidate.requests
    return GateUndecided(
        f"the gate could not decide on {report.model} in {report.candidate.slot} after {asked} conversations; "
        "traffic is as it was",
        details=[*unclear, *report.notes, *([f"report: {folder}"] if folder else [])],
        hint='read the report, then mlops deploy --skip-gate "why", or raise gate.max_conversations in mlops.yaml',
    )


def to_markdown(report: Report) -> str:
    """The report as the job summary shows it."""
    slot = report.candidate.slot
    parts = [f"### Gate {HEADS[report.verdict]}: {report.model} in {slot} of {report.endpoint}"]
    parts.append(_question_count(report))
    parts += [f"> {note}" for note in report.notes]
    rows = [[item.title, value(item), threshold(item), mark(item)] for item in report.checks]
    parts.append(markdown_table(["check", "measured", "required", ""], rows))
    if report.comparisons:
        rows = [
            [item.title, number(item.candidate), number(item.live), span(item), loss(item), mark(item)]
            for item in report.comparisons
        ]
        confidence = f"{percent(report.comparisons[0].confidence)} interval"
        header = ["quality", f"new ({slot})", "live", f"difference, {confidence}", "asked", ""]
        parts.append(markdown_table(header, rows))
    slots = [item for item in (report.candidate, report.live) if item is not None]
    parts += [speed_table(slots), latency_chart(slots)]
    if report.soaks:
        parts.append(soak_table(report.soaks))
    if report.timeline:
        parts.append(timeline_table(report))
    if report.worst:
        parts += ["Furthest from their references:", worst_table(report.worst)]
    if report.errors:
        parts += ["Errors:", "\n".join(f"- {cell(error)}" for error in report.errors[:10])]
    return "\n\n".join(part for part in parts if part)


def _question_count(report: Report) -> str:
    count, live = report.candidate.requests, report.live
    text = f"{count} conversation" + ("s" if count != 1 else "")
    text += (
        f", {live.slot} asked the same at the same time" if live is not None else "; nothing is live to compare with"
    )
    if math.isfinite(report.seconds):
        text += f"; {report.seconds:.1f} s"
    return text + (f" in {report.rounds} rounds." if report.rounds > 1 else ".")


def speed_table(slots: Sequence[Measured]) -> str:
    """Latency and throughput of the slots, as a table."""
    names = {
        "p50_ms": "latency p50 (ms)",
        "p95_ms": "latency p95 (ms)",
        "p99_ms": "latency p99 (ms)",
        "ms_per_token": "time per output token (ms)",
        "tokens_per_s": "output tokens per second",
    }
    rows = [[label, *(number(getattr(slot, name)) for slot in slots)] for name, label in names.items()]
    heads = [f"new ({slots[0].slot})", *(f"live ({slot.slot})" for slot in slots[1:])]
    return markdown_table(["speed", *heads], rows)


def latency_chart(slots: Sequence[Measured]) -> str:
    """A Mermaid chart of the latency percentiles; GitHub shows it in a job summary, where it strips images."""
    drawn = [slot for slot in slots if slot.latencies_ms]
    if not drawn:
        return ""
    colours = [NEW_COLOUR if slot is slots[0] else LIVE_COLOUR for slot in drawn]
    lines = []
    for slot in drawn:
        ordered = sorted(slot.latencies_ms)
        lines.append(", ".join(f"{percentile(ordered, share / 100):.4g}" for share in SHARES))
    legend = " · ".join(f"{'🟦 new' if slot is slots[0] else '🟧 live'} ({slot.slot})" for slot in drawn)
    theme = '%%{init: {"themeVariables": {"xyChart": {"plotColorPalette": "' + ", ".join(colours) + '"}}}}%%'
    axis = ", ".join(f'"p{share}"' for share in SHARES)
    body = "\n".join(f"  line [{values}]" for values in lines)
    return (
        f"```mermaid\n{theme}\nxychart-beta\n"
        f'  title "Latency by percentile"\n  x-axis [{axis}]\n  y-axis "milliseconds"\n{body}\n```\n\n{legend}'
    )


def soak_table(soaks: Sequence[Soak]) -> str:
    """What was seen under live traffic, one row per step and slot."""
    rows = []
    for soak in soaks:
        missed = ", ".join(item.title for item in soak.checks if not item.passed) or "–"
        for slot in soak.slots:
            rows.append(
                [
                    f"{soak.share} %",
                    slot.slot,
                    slot.requests,
                    percent(slot.success_rate),
                    number(slot.p95_ms),
                    missed,
                    "✓" if soak.verdict == "pass" else "✕",
                ]
            )
    return markdown_table(["soak at", "slot", "probes", "answered", "p95 (ms)", "missed", ""], rows)


def timeline_table(report: Report) -> str:
    """Where the traffic went, and why."""
    rows = [
        [
            f"{moment.at:%H:%M:%S}",
            ", ".join(f"{slot} {share} %" for slot, share in moment.traffic.items() if share) or "none",
            cell(moment.what),
            moment.verdict or "",
        ]
        for moment in report.timeline
    ]
    return markdown_table(["UTC", "traffic", "why", "verdict"], rows)


def worst_table(answers: Sequence[WorstAnswer]) -> str:
    """The worst answers with what was asked and expected."""
    names = list(dict.fromkeys(name for item in answers for name in item.scores))
    rows = [
        [
            cell(item.prompt),
            cell(item.reference),
            cell(item.answer) + (f" *({VIOLATIONS[item.flaw]})*" if item.flaw else ""),
            *(number(item.scores.get(name, math.nan)) for name in names),
        ]
        for item in answers
    ]
    return markdown_table(["prompt", "reference", "answer", *map(title, names)], rows)


def cell(text: str) -> str:
    """A model's or a server's text as plain words: no tag, link or mention comes alive in a job summary."""
    safe = cut(text).replace("&", "&amp;").replace("<", "&lt;").replace("@", "@\u200b")
    return "".join("\\" + sign if sign in "\\`*_[]~#" else sign for sign in safe)


def mark(item: Check | Comparison) -> str:
    """A verdict as a sign; in brackets where it decides nothing."""
    sign = {"pass": "✓", "fail": "✕", "inconclusive": "?"}[item.verdict]
    asked = item.threshold if isinstance(item, Check) else item.max_loss
    if asked is None:
        return ""
    return sign if item.decisive else f"({sign} dry run)"


def span(item: Comparison) -> str:
    """A difference with its interval."""
    if math.isnan(item.difference):
        return "none"
    return f"{item.difference:+.3f} [{item.low:+.3f}, {item.high:+.3f}]".replace("-", "−")


def loss(item: Comparison) -> str:
    """What a comparison asks for."""
    return "reported only" if item.max_loss is None else f"≥ −{item.max_loss:g}"


def number(value: float) -> str:
    """A measured value, short."""
    if math.isnan(value):
        return "none"
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def percent(value: float) -> str:
    """A share, as people say it."""
    return "none" if math.isnan(value) else f"{100 * value:.4g} %"


def value(item: Check) -> str:
    """What a check measured."""
    return percent(item.measured) if item.name.endswith("_rate") else number(item.measured)


def threshold(item: Check) -> str:
    """What a check asks for."""
    if item.threshold is None:
        return "reported only"
    limit = percent(item.threshold) if item.name.endswith("_rate") else f"{item.threshold:g}"
    return f"{item.relation} {limit}"
