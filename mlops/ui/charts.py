"""Loss curves as SVG: scales, ticks and paths are numbers; the template draws them, the style sheet colours them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

Points = Sequence[tuple[int, float]]
NAMES = {"train_loss": "train", "loss": "train", "eval_loss": "eval"}
"""Curves that are drawn, with their names for people."""
MOST = 240
"""Points of a curve that are drawn: more would lie on the same pixels."""
LEAST = 1e-6
"""A loss that differs less from nothing is drawn on the ground."""
WIDTH, HEIGHT = 640, 260
LEFT, RIGHT, TOP, BOTTOM = 48, 14, 12, 34


@dataclass(frozen=True, kw_only=True)
class Mark:
    """A point of a curve: where it is drawn, and what it says."""

    x: float
    y: float
    step: int
    value: float


@dataclass(frozen=True, kw_only=True)
class Curve:
    """One line of the chart."""

    name: str
    path: str
    marks: tuple[Mark, ...]
    last: float


@dataclass(frozen=True, kw_only=True)
class Tick:
    """A line of the grid, with its label."""

    position: float
    label: str


@dataclass(frozen=True, kw_only=True)
class Chart:
    """Everything that is drawn, in units of the view box."""

    curves: tuple[Curve, ...]
    across: tuple[Tick, ...]
    up: tuple[Tick, ...]
    width: int = WIDTH
    height: int = HEIGHT
    left: int = LEFT
    right: int = WIDTH - RIGHT
    top: int = TOP
    bottom: int = HEIGHT - BOTTOM


def chart(curves: Mapping[str, Points]) -> Chart | None:
    """The losses over the optimiser's steps; None where there is nothing to draw."""
    kept: dict[str, list[tuple[int, float]]] = {}
    for name, points in curves.items():
        finite = [(step, value) for step, value in points if math.isfinite(value)]
        if name in NAMES and finite:
            kept.setdefault(NAMES[name], finite)
    if not kept:
        return None
    everything = [point for points in kept.values() for point in points]
    first, last = min(step for step, _ in everything), max(step for step, _ in everything)
    across = ticks(min(first, 0), max(last, first + 1), most=7, whole=True)
    lowest, highest = (end(0.0, *(value for _, value in everything)) for end in (min, max))
    up = ticks(lowest, highest if highest - lowest > LEAST else lowest + 1.0, most=5)
    most = max(last, first + 1)

    def x(step: float) -> float:
        return round(LEFT + (step - across[0]) / (most - across[0]) * (WIDTH - LEFT - RIGHT), 1)

    def y(value: float) -> float:
        return round(HEIGHT - BOTTOM - (value - up[0]) / (up[-1] - up[0]) * (HEIGHT - TOP - BOTTOM), 1)

    drawn = []
    for name in sorted(kept, reverse=True):  # train first, eval over it
        points = kept[name]
        some = thinned(points)
        marks = tuple(Mark(x=x(step), y=y(value), step=step, value=value) for step, value in some)
        path = "M" + " L".join(f"{mark.x:g} {mark.y:g}" for mark in marks)
        drawn.append(Curve(name=name, path=path, marks=marks, last=points[-1][1]))
    return Chart(
        curves=tuple(drawn),
        across=tuple(Tick(position=x(value), label=f"{value:g}") for value in across if value <= most),
        up=tuple(Tick(position=y(value), label=f"{value:g}") for value in up),
    )


def thinned(points: Points) -> list[tuple[int, float]]:
    """At most about :data:`MOST` points; the first and the last stay."""
    every = math.ceil(len(points) / MOST)
    some = list(points[::every])
    return some if some[-1] == points[-1] else [*some, points[-1]]


def ticks(low: float, high: float, *, most: int, whole: bool = False) -> list[float]:
    """Round values from at most ``low`` to at least ``high``, no more than about ``most``."""
    span = high - low or 1.0
    rough = span / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(size * power for size in (1, 2, 2.5, 5, 10) if size * power >= rough * 0.999)
    if whole:
        step = max(1.0, math.ceil(step))
    start, end = math.floor(low / step), math.ceil(round(high / step, 6))
    return [round(number * step, 10) for number in range(start, max(end, start + 1) + 1)]
