"""The rollout of a model version to an endpoint's two slots, and the way back.

:func:`deploy` brings a version into the idle slot, through the gate, into traffic; :func:`rollback` puts the one before
back. Both hold the endpoint's lease and write its history (:mod:`mlops.ledger`).
"""

from mlops.rollout.back import rollback
from mlops.rollout.left import mend_left, would_mend
from mlops.rollout.look import Look, look
from mlops.rollout.outcome import Outcome
from mlops.rollout.recovery import Repair
from mlops.rollout.release import deploy
from mlops.rollout.slot import deployment_spec, draw_samples

__all__ = [
    "CREATED_TAG",
    "KIND_TAG",
    "Look",
    "Outcome",
    "Repair",
    "deploy",
    "deployment_spec",
    "draw_samples",
    "look",
    "mend_left",
    "rollback",
    "would_mend",
]
