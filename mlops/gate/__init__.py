"""The gate: what a new slot must show before it gets traffic.

Conversations of the test split are sent to the slot by name while it has no traffic, and, where something is live, the
same ones to the live slot at the same time. The verdict is a pure function of what was measured and of the thresholds:
*pass*, *fail*, or *inconclusive* where the difference to the live slot cannot be told from the allowed loss.
"""

from mlops.gate.comparison import Comparison, Verdict, compare
from mlops.gate.evaluation import Trial, evaluate
from mlops.gate.judge import Check, judge_absolute, overall, validate
from mlops.gate.markdown import refusal, summary_line, to_markdown, undecided
from mlops.gate.measurement import Measured, measure
from mlops.gate.report import SCHEMA_VERSION, Moment, Report, Soak, WorstAnswer
from mlops.gate.report_folder import read, write
from mlops.gate.samples import Sample, draw, load_rows, payload

__all__ = [
    "SCHEMA_VERSION",
    "Check",
    "Comparison",
    "Measured",
    "Moment",
    "Report",
    "Sample",
    "Soak",
    "Trial",
    "Verdict",
    "WorstAnswer",
    "compare",
    "draw",
    "evaluate",
    "judge_absolute",
    "load_rows",
    "measure",
    "overall",
    "payload",
    "read",
    "refusal",
    "summary_line",
    "to_markdown",
    "undecided",
    "validate",
    "write",
]
