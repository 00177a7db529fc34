"""The candidate beside the live slot: the difference of their scores on the same prompts, and how sure it is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from mlops.gate.measurement import Number, Scores, mean
from mlops.gate.quality import title

if TYPE_CHECKING:
    from mlops.config.settings import Gate

RESAMPLES = 4999
TOLERANCE = 1e-9
"""What rounding may do to a difference that meets its limit exactly."""

Verdict = Literal["pass", "fail", "inconclusive"]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One quality metric of the candidate beside the live slot's, on the prompts that reached both.

    Attributes:
        name: stable, as ``gate.dry_run`` names it: ``<metric>_difference``.
        pairs: prompts that reached both.
        difference: candidate − live, the mean over the pairs.
        low: the interval's lower bound.
        high: its upper bound.
        confidence: of the interval.
        max_loss: the loss that is allowed; None decides nothing.
        decisive: False in dry run, or without a limit.
    """

    name: str
    metric: str
    title: str
    pairs: int
    candidate: Number
    live: Number
    difference: Number
    low: Number
    high: Number
    confidence: float
    max_loss: float | None
    verdict: Verdict
    decisive: bool


def compare(settings: Gate, candidate: Scores, live: Scores) -> list[Comparison]:
    """Compare the scores of the same prompts, metric by metric."""
    comparisons = []
    for metric, quality in settings.quality.items():
        pairs = [
            (ours, theirs)
            for ours, theirs in zip(candidate[metric], live[metric], strict=True)
            if ours is not None and theirs is not None
        ]
        differences = [ours - theirs for ours, theirs in pairs]
        low, high = interval(differences, confidence=settings.confidence, seed=settings.seed)
        name = f"{metric}_difference"
        comparisons.append(
            Comparison(
                name=name,
                metric=metric,
                title=f"{title(metric)} − live",
                pairs=len(pairs),
                candidate=mean([ours for ours, _ in pairs]),
                live=mean([theirs for _, theirs in pairs]),
                difference=mean(differences),
                low=low,
                high=high,
                confidence=settings.confidence,
                max_loss=quality.max_loss,
                verdict=verdict(low, high, max_loss=quality.max_loss),
                decisive=quality.max_loss is not None and name not in settings.dry_run,
            )
        )
    return comparisons


def verdict(low: float, high: float, *, max_loss: float | None) -> Verdict:
    """Pass where the whole interval lies above the allowed loss, fail where it lies below; NaN fails."""
    if math.isnan(low) or math.isnan(high):
        return "fail"
    if max_loss is None or low >= -max_loss - TOLERANCE:
        return "pass"
    return "fail" if high < -max_loss - TOLERANCE else "inconclusive"


def interval(differences: Sequence[float], *, confidence: float, seed: int) -> tuple[float, float]:
    """A bootstrap confidence interval of the mean of paired differences.

    The percentile method (Efron and Tibshirani 1993, chapter 13) over :data:`RESAMPLES` resamples; the same seed
    gives the same interval. It never leaves out the mean itself. Where all differences are equal it is that value;
    where one is NaN, or there is none, it is NaN.
    """
    if not differences or any(math.isnan(value) for value in differences):
        return math.nan, math.nan
    if max(differences) - min(differences) < TOLERANCE:
        middle = mean(differences)
        return middle, middle
    from scipy.stats import bootstrap

    resampled = bootstrap(
        (list(differences),),
        lambda drawn, axis: drawn.mean(axis=axis),
        vectorized=True,
        n_resamples=RESAMPLES,
        batch=1000,
        confidence_level=confidence,
        method="percentile",
        rng=seed,
    ).confidence_interval
    middle = mean(differences)
    return min(float(resampled.low), middle), max(float(resampled.high), middle)
