"""How long a container may take to load its model: probe settings by the model's size."""

from __future__ import annotations

import math

from mlops.core.resources import Probe, Probes

LOAD_BYTES_PER_S = 50e6
"""Reading weights from a machine's disk into its memory, and on to a GPU, the first time: assumed, and rather slow;
managed disks of the sizes in question give 100 to 500 MB/s."""
LEAST_S = 10
"""Azure's default, and time enough for a small model."""
UNKNOWN_S = 600
"""For a model of unknown size: what the tutorial waits for a model of 7.6 GB."""
PERIOD_S = 10
TIMEOUT_S = 10
"""A probe is answered by the threads that answer chats: at full load it waits for one of them."""
FAILURES = 30
"""Azure's default: with the period, five minutes for all that does not grow with the model, such as imports."""

WORKER_TIMEOUT_S = 300
"""Of azureml-inference-server-http, where nothing is set."""


def load_s(model_bytes: int) -> float:
    """Seconds for reading a model into memory: its size over :data:`LOAD_BYTES_PER_S`."""
    return model_bytes / LOAD_BYTES_PER_S


def probes(model_bytes: int | None, *, initial_delay_s: int | None = None, warm_up_s: int = 0) -> Probes:
    """Probe settings for a model of this size.

    The server's container starts after the storage initializer has downloaded the model, so a probe has to wait for
    imports and loading only. Liveness is first asked after ``max(10, size / 50 MB/s)`` seconds (600 for an unknown
    size) and restarts the container after 30 failures, 10 s apart. Readiness is asked from the 10th second on, so
    that a model that loads quickly serves at once, and gives up no sooner than liveness.

    Args:
        model_bytes: size of the model's files; None where it is unknown.
        initial_delay_s: the setting that takes the place of the formula's delay.
        warm_up_s: what the server needs beside, once it has read the model; part of the formula.
    """
    if initial_delay_s is None:
        loading_s = UNKNOWN_S if model_bytes is None else max(LEAST_S, math.ceil(load_s(model_bytes)))
        initial_delay_s = loading_s + warm_up_s
    patience_s = initial_delay_s + PERIOD_S * FAILURES
    liveness = Probe(
        initial_delay_s=initial_delay_s, period_s=PERIOD_S, timeout_s=TIMEOUT_S, failure_threshold=FAILURES
    )
    readiness = Probe(
        initial_delay_s=LEAST_S,
        period_s=PERIOD_S,
        timeout_s=TIMEOUT_S,
        failure_threshold=max(1, math.ceil((patience_s - LEAST_S) / PERIOD_S)),
    )
    return Probes(liveness=liveness, readiness=readiness)


def server_variables(probe_settings: Probes) -> dict[str, str]:
    """The environment of a server that may load for so long: its workers are ended after 300 s unless it says more.

    ``WORKER_TIMEOUT`` is read by azureml-inference-server-http, for which loading counts as not answering.
    """
    patience_s = probe_settings.readiness.patience_s
    return {"WORKER_TIMEOUT": str(patience_s)} if patience_s > WORKER_TIMEOUT_S + LEAST_S else {}
