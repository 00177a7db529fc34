"""How long a rollout takes, by a formula whose parts are shown: an order of magnitude, no promise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from mlops.machines.probes import LEAST_S, load_s

if TYPE_CHECKING:
    from mlops.config.settings import Settings

ENDPOINT_S = 95.0
"""Creation of an endpoint: seen in a public report (Azure/azureml-examples, issue 1891: 1 min 33 s)."""
MACHINE_S = 240.0
"""Until a machine of the region is there: assumed."""
IMAGE_S = 320.0
"""Pull and unpacking of an image of 4.5 GiB on a managed endpoint: 5 min 16 s in a public log. A first build of the
environment comes on top and is not counted."""
DOWNLOAD_BYTES_PER_S = 100e6
"""From the workspace's storage to the machine, while the image is pulled: assumed."""
TOKEN_S = 0.025
"""Per token of an answer: assumed, a model of a few billion parameters on a recent GPU."""
TOKENS = 200
"""Of an answer where the gate does not limit it."""
TRAFFIC_S = 40.0
"""One change of the traffic map, which the SDK looks after every 30 s."""


@dataclass(frozen=True)
class Duration:
    """The parts of a rollout's time, each with its seconds."""

    parts: tuple[tuple[str, float], ...]

    @property
    def total(self) -> timedelta:
        """All of them."""
        return timedelta(seconds=sum(seconds for _, seconds in self.parts))

    def text(self) -> str:
        """``about 14 min on Azure: machine 4 min + image 5 min + …``."""
        sums = " + ".join(f"{what} {format_seconds(seconds)}" for what, seconds in self.parts)
        return f"about {format_seconds(self.total.total_seconds())} on Azure: {sums}"


def format_seconds(seconds: float) -> str:
    """``40 s``, ``5 min`` or ``2.5 h``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def estimate_duration(
    settings: Settings,
    model_bytes: int | None,
    steps: Sequence[int],
    *,
    creates_endpoint: bool = False,
    mirror: bool = False,
    skips_gate: bool = False,
) -> Duration:
    """The time of a rollout, as the sum of its parts.

    ::

        endpoint  95 s, where it has to be made
        machine   240 s
        image     max(320 s, model bytes / 100 MB/s)    both are fetched at the same time
        load      10 s + model bytes / 50 MB/s + s      the first readiness probe, the weights, an engine's warm-up
        gate      (warm-up + conversations) / concurrency × max_new_tokens × 25 ms
        traffic   40 s × steps (and two more for a mirror)
        soak      soak_s × steps + mirror_s

    The constants of this module say where each number comes from. A model of unknown size counts as nothing; a gate
    that is inconclusive asks up to ``max_conversations``; in the local workspace everything but gate and soak takes
    seconds.

    Args:
        settings: the target's settings.
        model_bytes: size of the model's files; None where it is unknown.
        steps: the shares of traffic that are soaked.
        creates_endpoint: whether there is none yet.
        mirror: whether live requests are copied first.
        skips_gate: whether neither gate nor soak is asked.
    """
    gate, rollout, size = settings.gate, settings.rollout, model_bytes or 0
    limit = gate.parameters.get("max_new_tokens", TOKENS)
    tokens = limit if isinstance(limit, int) and limit > 0 else TOKENS
    asked = (gate.warmup + gate.conversations) / gate.concurrency
    phases = [
        ("endpoint", ENDPOINT_S if creates_endpoint else 0.0),
        ("machine", MACHINE_S),
        ("image and model", max(IMAGE_S, size / DOWNLOAD_BYTES_PER_S)),
        ("load", LEAST_S + load_s(size) + settings.deployment.server.warm_up_s),
        ("gate", 0.0 if skips_gate else asked * tokens * TOKEN_S),
        ("traffic", TRAFFIC_S * (len(steps) + 2 * mirror)),
        ("soak", 0.0 if skips_gate else rollout.soak_s * len(steps) + rollout.mirror_s * mirror),
    ]
    return Duration(tuple((what, seconds) for what, seconds in phases if seconds > 0))
