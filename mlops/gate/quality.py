"""How good an answer is beside its reference: kept metrics by name, or a function of one's own."""

from __future__ import annotations

import difflib
import functools
import importlib
import math
import sys
from collections.abc import Callable, Iterable
from typing import Any

from mlops.core.errors import FileLocation, MlopsError, UsageError
from mlops.gate.contract import normal

Metric = Callable[[str, str], float]
"""``metric(answer, reference)`` gives 0 (wrong) to 1 (right)."""


def exact_match(answer: str, reference: str) -> float:
    """1 where the answer equals the reference but for case and white space."""
    return float(normal(answer) == normal(reference))


def rouge_l(answer: str, reference: str) -> float:
    """ROUGE-L F1 (Lin, 2004) by the rouge-score package, without stemming."""
    return float(_rouge().score(reference, answer)["rougeL"].fmeasure)


@functools.cache
def _rouge() -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rougeL"])


BUILTIN_METRICS: dict[str, Metric] = {"exact_match": exact_match, "rouge_l": rouge_l}
TITLES = {"exact_match": "exact match", "rouge_l": "ROUGE-L"}


def title(name: str) -> str:
    """A metric's name for people."""
    return TITLES.get(name, name.rpartition(":")[2].replace("_", " "))


def metrics(names: Iterable[str]) -> dict[str, Metric]:
    """The metrics of these names.

    Raises:
        UsageError: one is neither kept nor a function that can be imported.
    """
    return {name: metric(name) for name in names}


def metric(name: str) -> Metric:
    """A metric by its name in ``gate.quality``: one that is kept, or ``module:function``.

    A module is looked for where Python finds its own, then beside mlops.yaml.
    """
    if name in BUILTIN_METRICS:
        return BUILTIN_METRICS[name]
    module, colon, function = name.partition(":")
    if not colon:
        close = difflib.get_close_matches(name, BUILTIN_METRICS, n=1)
        advice = (
            f"did you mean '{close[0]}'?" if close else f"known are {', '.join(BUILTIN_METRICS)}, and module:function"
        )
        raise _unusable(name, f"is no metric; {advice}")
    try:
        scorer = getattr(_module(module), function, None)
    except Exception as error:  # whatever a module of somebody's own does when it is imported
        raise _unusable(name, f"cannot be imported: {error}") from None
    if not callable(scorer):
        raise _unusable(name, f"names no function: '{module}' has no '{function}' that can be called")
    return scorer  # type: ignore[no-any-return]


def _module(name: str) -> Any:
    from mlops.config.settings import find_file

    if not all(part.isidentifier() for part in name.split(".")):
        raise ImportError(f"'{name}' is no module's name")
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not (name + ".").startswith(error.name + "."):
            raise  # it is there; something that it imports is not
        try:
            folder = str(find_file().parent)
        except MlopsError:
            raise error from None
        sys.path.append(folder)
        try:
            importlib.invalidate_caches()
            return importlib.import_module(name)
        finally:
            sys.path.remove(folder)


def _unusable(name: str, what: str) -> UsageError:
    from mlops.config.settings import FILE

    hint = "a metric is a function (answer, reference) -> float from 0 to 1"
    return UsageError(f"gate.quality: '{name}' {what}", location=FileLocation(file=FILE), hint=hint)


def score(metric: Metric, answer: str | None, reference: str) -> float:
    """One answer's score: 0 where there is none, NaN where the metric fails or leaves the range from 0 to 1."""
    if answer is None or not answer.strip():
        return 0.0
    try:
        value = float(metric(answer, reference))
    except Exception:  # a metric of somebody's own; NaN never passes, so nothing is hidden
        return math.nan
    return value if 0 <= value <= 1 else math.nan
