"""What a training has shown on the test split, held against the settings before its model is registered.

The pipeline's evaluate step asks the base model and the tuned one the same conversations and logs each measure as
``base_<measure>`` and ``tuned_<measure>``. Everything here is a pure function of these numbers and of the settings'
``training.evaluation``.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from mlops.core.errors import TrainingFailed

if TYPE_CHECKING:
    from mlops.config.settings import Evaluation

STEP, OUTPUT = "evaluate", "evaluation_output"
"""The step of the pipeline in ``components/`` that compares the models, and its output."""
REPORT, SCORES = "report.html", "scores.json"
"""Files of that output."""
MEASURES: Mapping[str, tuple[str, str]] = {
    "loss": ("loss", ".4f"),
    "perplexity": ("perplexity", ".4g"),
    "rouge_l": ("ROUGE-L", ".4f"),
    "exact_match": ("exact match", ".4f"),
    "answer_tokens": ("tokens per answer", ".1f"),
    "unfinished": ("cut off", ".4f"),
    "empty": ("empty answers", ".4f"),
    "repetition": ("repetition", ".4f"),
    "general_loss": ("general: loss", ".4f"),
    "general_perplexity": ("general: perplexity", ".4g"),
    "general_rouge_l": ("general: ROUGE-L", ".4f"),
    "general_exact_match": ("general: exact match", ".4f"),
    "eval_loss": ("training's eval_loss", ".4f"),
}
"""The measures that can be limited, with their words and how they are written; in this order they are shown."""
OWN = frozenset({"eval_loss"})
"""Measures of the training itself, which the registry's pipeline logs too; there is no base model's value of them."""
TOLERANCE = 1e-9
"""What rounding may do to a value that meets its limit exactly."""

Verdict = Literal["passed", "failed", "not measured", ""]


class EvaluationFailed(TrainingFailed):
    """A completed training whose model does not meet ``training.evaluation``; exit code 5."""


@dataclass(frozen=True, kw_only=True)
class Check:
    """One measure and what is asked of it.

    Attributes:
        measure: its name in the settings.
        base: the base model's value; NaN where there is none.
        tuned: the tuned model's.
        limit: what is asked, in words; empty for a measure that is reported only.
        verdict: empty for a measure that is reported only.
    """

    measure: str
    base: float
    tuned: float
    limit: str = ""
    verdict: Verdict = ""

    @property
    def cells(self) -> list[str]:
        """Measure, base, tuned, change, limit and verdict, as text."""
        title, form = MEASURES[self.measure]
        change = self.tuned - self.base

        def number(value: float, sign: str = "") -> str:
            return f"{value:{sign}{form}}" if math.isfinite(value) else "–"

        return [title, number(self.base), number(self.tuned), number(change, "+"), self.limit, self.verdict]


HEADER = ["measure", "base", "tuned", "change", "limit", "verdict"]


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """What became of all limits.

    Attributes:
        checks: limited measures and measured ones.
        required: whether a model without numbers is refused.
        evaluated: whether the pipeline compared the two models at all.
    """

    checks: tuple[Check, ...]
    required: bool
    evaluated: bool

    @property
    def failed(self) -> tuple[Check, ...]:
        """The limits that are not met."""
        return tuple(check for check in self.checks if check.verdict == "failed")

    @property
    def unmeasured(self) -> tuple[Check, ...]:
        """The limits that nothing could be held against."""
        return tuple(check for check in self.checks if check.verdict == "not measured")

    @property
    def refused(self) -> bool:
        """Whether the model must not be registered, unless a person accepts it."""
        return bool(self.failed) or (self.required and (not self.evaluated or bool(self.unmeasured)))

    @property
    def verdict(self) -> str:
        """In a word, as the model's tag ``evaluation`` holds it; empty where nothing is asked."""
        if self.refused:
            return "failed"
        if self.unmeasured or (not self.evaluated and self.required):
            return "not evaluated"
        return "passed" if any(check.verdict == "passed" for check in self.checks) else ""

    @property
    def why(self) -> str:
        """Why the model is refused, or was not judged; empty where all is well."""
        if self.failed:
            measures = ", ".join(dict.fromkeys(MEASURES[check.measure][0] for check in self.failed))
            return f"it does not meet training.evaluation: {measures}"
        if not self.evaluated and (self.unmeasured or self.required):
            return "nothing was evaluated: the job has logged no scores of base and tuned model"
        if self.unmeasured:
            measures = ", ".join(dict.fromkeys(MEASURES[check.measure][0] for check in self.unmeasured))
            return f"limits of training.evaluation that nothing was measured for: {measures}"
        return ""

    @property
    def limited(self) -> Judgement:
        """Without the measures that are reported only."""
        return dataclasses.replace(self, checks=tuple(check for check in self.checks if check.verdict))

    @property
    def rows(self) -> list[list[str]]:
        """Each check's cells, under :data:`HEADER`."""
        return [check.cells for check in self.checks]

    @property
    def lines(self) -> list[str]:
        """The table as lines of text of equal columns."""
        rows = [HEADER, *self.rows]
        widths = [max(len(row[column]) for row in rows) for column in range(len(HEADER))]
        return [
            "  ".join(
                cell.rjust(width) if 1 <= column <= 3 else cell.ljust(width)
                for column, (cell, width) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
            for row in rows
        ]


def judge(settings: Evaluation, metrics: Mapping[str, float]) -> Judgement:
    """Hold a training's metrics against the limits.

    A value that the base model has and the tuned one has not is no number (a loss of NaN is not logged), and meets no
    limit. Where neither has it, it was not measured: that refuses a model only where ``required`` is set.
    """
    checks: list[Check] = []
    for measure in MEASURES:
        base, tuned = values(metrics, measure)
        limited = list(_checks(measure, base, tuned, settings, metrics))
        if not limited and (not math.isnan(base) or not math.isnan(tuned)):
            limited = [Check(measure=measure, base=base, tuned=tuned)]
        checks += limited
    return Judgement(checks=tuple(checks), required=settings.required, evaluated=was_evaluated(metrics))


def judgement_of(metrics: Mapping[str, float]) -> Judgement:
    """All that was measured, held against nothing."""
    from mlops.config.settings import Evaluation

    return judge(Evaluation(), metrics)


def values(metrics: Mapping[str, float], measure: str) -> tuple[float, float]:
    """A measure of the base model and of the tuned one; NaN for what is not there."""
    if measure in OWN:
        return math.nan, metrics.get(measure, math.nan)
    return metrics.get(f"base_{measure}", math.nan), metrics.get(f"tuned_{measure}", math.nan)


def written_scores(folder: Path) -> dict[str, float]:
    """The numbers that the evaluate step wrote into its output; none where there is no such file."""
    file = folder / SCORES
    numbers = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    return {name: float(value) for name, value in numbers.items()}


def was_evaluated(metrics: Mapping[str, float]) -> bool:
    """Whether a job has compared the tuned model with its base."""
    return "base_loss" in metrics or "tuned_loss" in metrics


def is_of_evaluation(name: str) -> bool:
    """Whether a metric is one of the evaluate step's, which are shown side by side."""
    return name.startswith(("base_", "tuned_", "loss_change", "general_loss_change"))


def _checks(
    measure: str, base: float, tuned: float, settings: Evaluation, metrics: Mapping[str, float]
) -> Iterable[Check]:
    limits = getattr(settings, measure)
    form = MEASURES[measure][1]
    conditions: list[tuple[str, bool, bool]] = []  # in words, met, needs the base model
    if limits.min is not None:
        conditions.append((f"≥ {limits.min:{form}}", tuned >= limits.min - TOLERANCE, False))
    if limits.max is not None:
        conditions.append((f"≤ {limits.max:{form}}", tuned <= limits.max + TOLERANCE, False))
    if measure not in OWN and limits.max_rise is not None:
        conditions.append((f"change ≤ {limits.max_rise:+{form}}", tuned - base <= limits.max_rise + TOLERANCE, True))
    if measure not in OWN and limits.max_drop is not None:
        conditions.append((f"change ≥ {-limits.max_drop:+{form}}", base - tuned <= limits.max_drop + TOLERANCE, True))
    names = (measure,) if measure in OWN else (f"base_{measure}", f"tuned_{measure}")
    for limit, met, against_base in conditions:
        logged = [name in metrics for name in names]
        measured = any(logged) and (all(logged) or not against_base or logged[0])
        verdict: Verdict = "not measured" if not measured else "passed" if met else "failed"
        yield Check(measure=measure, base=base, tuned=tuned, limit=limit, verdict=verdict)
