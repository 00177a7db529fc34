"""Loss curves: a sparkline for the terminal, a PNG for people, a Mermaid chart for the job summary."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

BLOCKS = "▁▂▃▄▅▆▇█"
Points = Sequence[tuple[int, float]]


def sparkline(points: Points, *, width: int = 40) -> str:
    """A curve in one line of block characters, highest value highest; values that are no numbers are left out."""
    values = [value for _, value in points if math.isfinite(value)]
    if not values:
        return ""
    if len(values) > width:  # means of equal stretches, so that a long run keeps its shape
        edges = [round(index * len(values) / width) for index in range(width + 1)]
        values = [sum(values[a:b]) / (b - a) for a, b in itertools.pairwise(edges)]
    low, high = min(values), max(values)
    span = (high - low) or 1.0
    return "".join(BLOCKS[round((value - low) / span * (len(BLOCKS) - 1))] for value in values)


def draw(curves: Mapping[str, Points], path: Path, *, title: str) -> Path:
    """Draw loss curves into a PNG (the one file appears whole)."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for name, points in sorted(curves.items()):
        if points:
            axes.plot(
                [step for step, _ in points], [value for _, value in points], label=name, marker="o", markersize=3
            )
    axes.set(title=title, xlabel="optimiser step", ylabel="loss (nats per token)")
    axes.grid(visible=True, alpha=0.3)
    axes.set_ylim(bottom=0)
    axes.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.part")
    figure.savefig(beside, format="png")
    beside.replace(path)
    return path


def mermaid(points: Points, *, title: str, most: int = 40) -> str:
    """A Mermaid chart of one curve; GitHub shows it in a job summary, where it strips inline images."""
    kept = [(step, value) for step, value in points if math.isfinite(value)]
    kept = kept[:: max(1, math.ceil(len(kept) / most))]
    if not kept:
        return ""
    axis = ", ".join(str(step) for step, _ in kept)
    values = ", ".join(f"{value:.4g}" for _, value in kept)
    return f'```mermaid\nxychart-beta\n  title "{title}"\n  x-axis [{axis}]\n  y-axis "loss"\n  line [{values}]\n```'
