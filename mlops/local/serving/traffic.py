"""Traffic maps: which are allowed, and which deployment the next request goes to."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

MIRROR_LIMIT = 50
"""Most that can be mirrored, in percent."""


def refusal(
    traffic: Any, mirror: Any, *, deployments: Mapping[str, str], live: Mapping[str, int] | None = None
) -> str | None:
    """Why a traffic map and a mirror map are not allowed; None where they are.

    Args:
        traffic: percentages by deployment, as the client sent them.
        mirror: the same for copies of requests.
        deployments: provisioning state of the endpoint's deployments, by name.
        live: the traffic that flows now; what it already holds may stay whatever the deployment's state.
    """
    for name, weights in (("Traffic", traffic), ("MirrorTraffic", mirror)):
        if not isinstance(weights, dict):
            return f"{name} must be an object of deployment names and percentages."
        for deployment, weight in weights.items():
            if isinstance(weight, bool) or not isinstance(weight, int) or not 0 <= weight <= 100:
                return f"{name} of deployment '{deployment}' must be a whole number from 0 to 100, not '{weight}'."
    states = {name.lower(): state for name, state in deployments.items()}
    flowing = {name.lower() for name, weight in (live or {}).items() if weight}
    for name, weights in (("Traffic", traffic), ("MirrorTraffic", mirror)):
        for deployment in weights:
            if deployment.lower() not in states:
                return f"{name} names the deployment '{deployment}', which does not exist in this endpoint."
        if len({deployment.lower() for deployment in weights}) != len(weights):
            return f"{name} names a deployment twice."
        for deployment, weight in weights.items():
            state = states[deployment.lower()]
            if weight and state not in ("Succeeded", "Updating") and deployment.lower() not in flowing:
                return f"{name} cannot go to the deployment '{deployment}', whose provisioning state is '{state}'."
    total = sum(traffic.values())
    if total not in (0, 100):
        return f"The sum of traffic percentages must be 0 or 100, but it is {total}."
    mirrored = {deployment: weight for deployment, weight in mirror.items() if weight}
    if len(mirrored) > 1:
        return "Traffic can be mirrored to one deployment only."
    served = {deployment.lower() for deployment, weight in traffic.items() if weight}
    for deployment, weight in mirrored.items():
        if weight > MIRROR_LIMIT:
            return f"Mirrored traffic of deployment '{deployment}' is {weight} %; at most {MIRROR_LIMIT} % is allowed."
        if deployment.lower() in served:
            return f"The deployment '{deployment}' has live traffic; traffic cannot be mirrored to it."
    return None


def canonical(weights: Mapping[str, int], names: list[str]) -> dict[str, int]:
    """A map with the deployments' names as they were made (clients send them in any case)."""
    made = {name.lower(): name for name in names}
    return {made.get(name.lower(), name): weight for name, weight in weights.items()}


class Split:
    """Weighted choice of low discrepancy: hundred after hundred of requests fall exactly as the percentages say.

    Smooth weighted round robin: every deployment earns its weight, the richest is chosen and pays the total. Its
    choices are dealt in hands of ten, each shuffled: were their order fixed, a client that comes with every fifth
    request would always meet the same deployment.
    """

    HAND = 10

    def __init__(self, weights: Mapping[str, int]) -> None:
        self.weights = {name: weight for name, weight in weights.items() if weight > 0}
        self._total = sum(self.weights.values())
        self._credit = dict.fromkeys(self.weights, 0)
        self._hand: list[str] = []

    def next(self) -> str | None:
        """The deployment of the next request; None where nothing has weight."""
        if not self.weights:
            return None
        if not self._hand:
            self._hand = [self._choose() for _ in range(self.HAND)]
            random.shuffle(self._hand)
        return self._hand.pop()

    def _choose(self) -> str:
        for name, weight in self.weights.items():
            self._credit[name] += weight
        chosen = max(self._credit, key=lambda name: self._credit[name])
        self._credit[chosen] -= self._total
        return chosen


class Share:
    """Every n-th request so that a percentage of them is chosen, evenly spread (for mirroring)."""

    def __init__(self, percent: int) -> None:
        self._percent = percent
        self._credit = 0

    def next(self) -> bool:
        """Whether this request is one of them."""
        self._credit += self._percent
        if self._credit >= 100:
            self._credit -= 100
            return True
        return False
