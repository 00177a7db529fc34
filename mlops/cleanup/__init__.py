"""Finding what is stale and letting it go: previews, idle and failed slots, old model versions, idle clusters."""

from mlops.cleanup.apply import Result, apply_decisions, failure
from mlops.cleanup.assets import decide_cluster, decide_versions
from mlops.cleanup.decisions import Decision, Rollouts, Rules, decide
from mlops.cleanup.prices import Saving, saving
from mlops.cleanup.survey import CleanupPlan, plan, rules

__all__ = [
    "CleanupPlan",
    "Decision",
    "Result",
    "Rollouts",
    "Rules",
    "Saving",
    "apply_decisions",
    "decide",
    "decide_cluster",
    "decide_versions",
    "failure",
    "plan",
    "rules",
    "saving",
]
