"""Going on with what outlived its workflow: trainings that have ended, rollouts that were cut off."""

from mlops.reconcile.apply import Failure, Outcome, mark_reported, reconcile, survey
from mlops.reconcile.decisions import REPORTED_TAG, Next, Work, next_version, sort_jobs

__all__ = [
    "REPORTED_TAG",
    "Failure",
    "Next",
    "Outcome",
    "Work",
    "mark_reported",
    "next_version",
    "reconcile",
    "sort_jobs",
    "survey",
]
