"""The rollout of a model version to an endpoint's two slots, and the way back.

:func:`mlops.rollout.deploy.deploy` brings a version into the idle slot, through the gate, into traffic;
:func:`mlops.rollout.rollback.rollback` puts the one before back. Both hold the endpoint's lease and write its history
(:mod:`mlops.ledger`).
"""
