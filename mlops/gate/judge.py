"""The verdict: a pure function of what was measured and of the thresholds."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from mlops.core.errors import FileLocation, UsageError
from mlops.gate.comparison import TOLERANCE, Comparison, Verdict
from mlops.gate.measurement import Measured, Number, ratio
from mlops.gate.quality import metrics, title

if TYPE_CHECKING:
    from mlops.config.settings import Gate

Relation = Literal["≥", "≤"]


@dataclass(frozen=True, kw_only=True)
class Check:
    """One threshold and what was measured against it.

    Attributes:
        name: stable, as ``gate.dry_run`` names it.
        title: for people, with the unit.
        threshold: None is reported and decides nothing.
        decisive: False in dry run, or without a threshold.
    """

    name: str
    title: str
    measured: Number
    relation: Relation
    threshold: float | None
    verdict: Literal["pass", "fail"]
    decisive: bool

    @property
    def passed(self) -> bool:
        """Whether it stands in nobody's way."""
        return self.verdict == "pass" or not self.decisive


def check(settings: Gate, name: str, label: str, measured: float, relation: Relation, threshold: float | None) -> Check:
    """Hold one value against its threshold; NaN meets none."""
    met = measured >= (threshold or 0) - TOLERANCE if relation == "≥" else measured <= (threshold or 0) + TOLERANCE
    return Check(
        name=name,
        title=label,
        measured=measured,
        relation=relation,
        threshold=threshold,
        verdict="pass" if threshold is None or (met and not math.isnan(measured)) else "fail",
        decisive=threshold is not None and name not in settings.dry_run,
    )


def judge_absolute(settings: Gate, measured: Measured) -> list[Check]:
    """Hold what a slot showed against the thresholds that need no other slot."""
    rows: list[tuple[str, str, float, Relation, float | None]] = [
        ("success_rate", "answered (HTTP 200)", measured.success_rate, "≥", settings.min_success_rate),
        ("contract_rate", "keeps the contract", measured.contract_rate, "≥", settings.min_contract_rate),
        (
            "transport_error_rate",
            "transport errors",
            measured.transport_error_rate,
            "≤",
            settings.max_transport_error_rate,
        ),
        ("latency_p95_ms", "latency p95 (ms)", measured.p95_ms, "≤", settings.max_p95_ms),
        ("ms_per_token", "time per output token (ms)", measured.ms_per_token, "≤", settings.max_ms_per_token),
    ]
    for name, quality in settings.quality.items():
        score, least = measured.scores.get(name, math.nan), quality.min
        if least is None and quality.max_loss is not None and math.isnan(score):
            least = 0.0  # a metric that counts and cannot be had is a failure, with a live slot or without
        rows.append((name, title(name), score, "≥", least))
    return [check(settings, *row) for row in rows]


def judge_latency(settings: Gate, candidate: Measured, live: Measured) -> Check:
    """Hold the candidate's median latency against the live slot's."""
    latency_ratio = ratio(candidate.p50_ms, live.p50_ms)
    return check(settings, "latency_ratio", "latency p50 ÷ live", latency_ratio, "≤", settings.max_latency_ratio)


def overall(checks: Sequence[Check], comparisons: Sequence[Comparison] = ()) -> Verdict:
    """The worst verdict of all that is decisive: fail, then inconclusive, then pass. Of no check at all: fail."""
    items: list[Check | Comparison] = [*checks, *comparisons]
    verdicts = {item.verdict for item in items if item.decisive}
    if not checks or "fail" in verdicts:
        return "fail"
    return "inconclusive" if "inconclusive" in verdicts else "pass"


def names(settings: Gate) -> list[str]:
    """The names of all checks, as ``gate.dry_run`` may name them."""
    fixed = ["success_rate", "contract_rate", "transport_error_rate", "latency_p95_ms", "ms_per_token"]
    return [*fixed, *settings.quality, *(f"{name}_difference" for name in settings.quality), "latency_ratio"]


def validate(settings: Gate) -> None:
    """Look at the settings that only the gate understands, before anything is paid for.

    Raises:
        UsageError: a metric of ``gate.quality`` cannot be had, or ``gate.dry_run`` names no check.
    """
    metrics(settings.quality)
    refuse_unknown(settings.dry_run, names(settings))


def refuse_unknown(given: Iterable[str], known: Sequence[str]) -> None:
    """Refuse a name in ``gate.dry_run`` that is no check's."""
    from mlops.config.settings import FILE

    for name in given:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            advice = f"did you mean '{close[0]}'?" if close else f"known are {', '.join(known)}"
            raise UsageError(f"gate.dry_run: unknown check '{name}'; {advice}", location=FileLocation(file=FILE))
