"""The report in pictures: how fast both slots are, how their scores differ, where the traffic went."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from datetime import UTC
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlops.gate.markdown import LIVE_COLOUR, NEW_COLOUR, percent, span
from mlops.gate.measurement import Measured
from mlops.gate.quality import title

if TYPE_CHECKING:
    from mlops.gate.report import Moment, Report

GREY = "#595959"
VERDICT_COLOURS = {"pass": "#009E73", "fail": "#D55E00", "inconclusive": "#8A6FB3"}
"""Green and vermilion of Okabe and Ito's palette; the verdict's word and its sign's shape say the same."""
MARKERS = {"pass": "o", "fail": "X", "inconclusive": "D"}
SLOT_COLOURS = {"blue": "#56B4E9", "green": "#009E73"}
HATCHES = ("", "//", "..", "xx")
OTHER_COLOURS = ("#CC79A7", "#F0E442", "#999999")


def draw(report: Report, folder: Path) -> list[Path]:
    """Draw what there is to see: latency.png, scores.png, traffic.png."""
    paths = []
    slots = [slot for slot in (report.candidate, report.live) if slot is not None and slot.latencies_ms]
    if slots:
        paths.append(_save(folder / "latency.png", 4.2, lambda figure: latency(figure, report, slots)))
    if any(math.isfinite(item.difference) for item in report.comparisons):
        height = 1.9 + 0.75 * len(report.comparisons)
        paths.append(_save(folder / "scores.png", height, lambda figure: scores(figure, report)))
    if report.timeline:
        paths.append(_save(folder / "traffic.png", 4.2, lambda figure: traffic(figure, report)))
    return paths


def _save(path: Path, height: float, draw: Callable[[Any], None]) -> Path:
    import logging

    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)
    figure = Figure(figsize=(8, height), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    draw(figure)
    figure.savefig(path, format="png")
    return path


def latency(figure: Any, report: Report, slots: list[Measured]) -> None:
    """How many answers had come after so long: a step per answer, p50 and p95 marked."""
    axes = figure.add_subplot()
    slowest = max(max(slot.latencies_ms) for slot in slots)
    scale, unit = (1000.0, "s") if slowest >= 10_000 else (1.0, "ms")
    for slot in slots:
        new = slot.slot == report.candidate.slot
        colour, style = (NEW_COLOUR, "-") if new else (LIVE_COLOUR, "--")
        values = sorted(value / scale for value in slot.latencies_ms)
        shares = [100 * (at + 1) / len(values) for at in range(len(values))]
        p50, p95 = slot.p50_ms / scale, slot.p95_ms / scale
        label = f"{'new' if new else 'live'} ({slot.slot}): p50 {_short(p50)}, p95 {_short(p95)} {unit}"
        axes.step([values[0], *values], [0, *shares], where="post", color=colour, linestyle=style, label=label, lw=2)
        axes.plot(
            [p50, p95],
            [50, 95],
            linestyle="",
            marker="o" if new else "s",
            color=colour,
            markersize=8,
            markeredgecolor="white",
            zorder=3,
        )
    for share in (50, 95):
        axes.axhline(share, color=GREY, linewidth=0.8, linestyle=":")
    limit = next((check.threshold for check in report.checks if check.name == "latency_p95_ms"), None)
    if limit is not None and limit / scale <= 3 * slowest / scale:
        axes.axvline(
            limit / scale,
            color=VERDICT_COLOURS["fail"],
            linewidth=1.2,
            linestyle="-.",
            label=f"limit of p95: {_short(limit / scale)} {unit}",
        )
    axes.set(xlabel=f"latency ({unit})", ylabel="answers that had come (%)", ylim=(0, 102), yticks=[0, 25, 50, 75, 95])
    axes.set_xlim(left=0, right=axes.get_xlim()[1])
    axes.set_title(f"Latency of {report.candidate.requests} conversations: {report.model}", loc="left", fontsize=11)
    axes.grid(visible=True, axis="x", alpha=0.3)
    figure.legend(loc="outside lower center", ncols=1 if len(slots) == 1 else 2, frameon=False)
    _bare(axes)


def scores(figure: Any, report: Report) -> None:
    """The difference of each metric with its interval, and the loss that is allowed."""
    axes = figure.add_subplot()
    comparisons = [item for item in report.comparisons if math.isfinite(item.difference)]
    ticks = []
    for at, item in enumerate(comparisons):
        y = len(comparisons) - 1 - at
        ticks.append((y, title(item.metric)))
        colour = VERDICT_COLOURS[item.verdict] if item.decisive else GREY
        marker = MARKERS[item.verdict]
        axes.plot([item.low, item.high], [y, y], color=colour, linewidth=3, solid_capstyle="butt")
        for end in (item.low, item.high):
            axes.plot([end, end], [y - 0.09, y + 0.09], color=colour, linewidth=2)
        axes.plot([item.difference], [y], marker=marker, markersize=10, color=colour, markeredgecolor="white", zorder=3)
        word = item.verdict if item.decisive else "reported only"
        label = f"{span(item)}: {word}"
        axes.text(
            item.difference,
            y + 0.17,
            label,
            color=colour,
            ha="center",
            va="bottom",
            fontsize=9,
            bbox={"color": "white", "pad": 1},
        )
        if item.max_loss is not None:
            axes.plot(
                [-item.max_loss] * 2,
                [y - 0.4, y + 0.14],
                color=GREY,
                linestyle="--",
                linewidth=1.5,
                label="allowed loss" if at == 0 else None,
            )
    axes.axvline(0, color=GREY, linewidth=0.8)
    bounds = [0.0]
    for item in comparisons:
        bounds += [item.low, item.high, *([-item.max_loss] if item.max_loss is not None else [])]
    span_width = max(max(bounds) - min(bounds), 0.02)
    axes.set_xlim(min(bounds) - 0.35 * span_width, max(bounds) + 0.35 * span_width)
    axes.set_ylim(-0.6, len(comparisons) - 0.35)
    axes.set_yticks([y for y, _ in ticks], [name for _, name in ticks])
    confidence = percent(comparisons[0].confidence)
    axes.set_xlabel(f"worse  ←  new − live, mean and {confidence} interval (scores from 0 to 1)  →  better")
    head = f"Score difference on {comparisons[0].pairs} prompts: {report.model}"
    axes.set_title(head, loc="left", fontsize=11)
    axes.grid(visible=True, axis="x", alpha=0.3)
    if any(item.max_loss is not None for item in comparisons):
        figure.legend(loc="outside lower center", frameon=False)
    _bare(axes)


def traffic(figure: Any, report: Report) -> None:
    """The share of each slot over the rollout, stacked, with the verdicts where they fell."""
    moments = report.timeline
    begin = moments[0].at
    seconds = [(moment.at - begin).total_seconds() for moment in moments]
    end = seconds[-1] + max(0.06 * (seconds[-1] or 1.0), 0.5)
    scale, unit = (60.0, "minutes") if end >= 300 else (1.0, "seconds")
    times = [value / scale for value in (*seconds, end)]
    axes = figure.add_subplot()
    slots = _stack_shares(axes, moments, times)
    _mark_verdicts(axes, moments, times)
    axes.set(xlim=(0, times[-1]), ylim=(0, 100), ylabel="live traffic (%)")
    axes.set_xlabel(f"{unit} since {begin.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC")
    figure.suptitle(f"Traffic of {report.endpoint}: {report.model}", x=0.02, ha="left", fontsize=11)
    if slots:
        figure.legend(loc="outside lower center", ncols=len(slots), frameon=False)
    _bare(axes)


def _stack_shares(axes: Any, moments: Sequence[Moment], times: Sequence[float]) -> list[str]:
    """An area for each slot that had traffic; returns the slots."""
    slots = sorted({slot for moment in moments for slot, share in moment.traffic.items() if share})
    if not slots:
        return []
    levels = [[moment.traffic.get(slot, 0) for moment in (*moments, moments[-1])] for slot in slots]
    spare = iter(OTHER_COLOURS * len(slots))
    colours = [SLOT_COLOURS.get(slot) or next(spare) for slot in slots]
    areas = axes.stackplot(times, *levels, step="post", colors=colours, alpha=0.75, labels=slots)
    for area, hatch in zip(areas, HATCHES * len(areas), strict=False):
        area.set(hatch=hatch, edgecolor="white", linewidth=0.4)
    return slots


def _mark_verdicts(axes: Any, moments: Sequence[Moment], times: Sequence[float]) -> None:
    """A line and a sign for each verdict, with its label above."""
    verdicts = [(at, moment) for at, moment in zip(times, moments, strict=False) if moment.verdict]
    for (at, moment), label_at in zip(verdicts, spread([at for at, _ in verdicts], times[-1]), strict=True):
        verdict = moment.verdict or ""
        axes.axvline(at, color="#333333", linewidth=1, linestyle=":")
        axes.plot(
            [at],
            [100],
            marker=MARKERS.get(verdict, "."),
            markersize=9,
            color=VERDICT_COLOURS.get(verdict, GREY),
            markeredgecolor="white",
            clip_on=False,
            zorder=4,
        )
        axes.annotate(
            f"{moment.what}: {verdict}",
            (at, 101.5),
            (label_at, 107),
            rotation=30,
            ha="left",
            va="bottom",
            rotation_mode="anchor",
            fontsize=8,
            annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": GREY, "linewidth": 0.7},
        )


def spread(anchors: Sequence[float], width: float) -> list[float]:
    """Where labels go that belong to these places, none closer to the next than slanted text is high."""
    gap = 0.05 * width
    positions: list[float] = []
    for anchor in anchors:
        positions.append(max(anchor, positions[-1] + gap) if positions else anchor)
    over = positions[-1] - width if positions else 0.0
    for at in range(len(positions) - 1, -1, -1):  # those that ran off the right end press the ones before them back
        if over <= 0:
            break
        least = positions[at + 1] - gap if at + 1 < len(positions) else width
        positions[at] = min(positions[at], least)
    return positions


def _bare(axes: Any) -> None:
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _short(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"
