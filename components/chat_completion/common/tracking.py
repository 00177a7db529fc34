"""Metrics on their way to MLflow, without anybody waiting for them.

A thread of its own imports MLflow (a second and a half) and sends what was logged, while the model trains.
"""

import os
import queue
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

PARAM_LENGTH = 500
"""Azure ML refuses longer values of parameters."""

BATCH = 100
"""Azure ML takes this many parameters at a time."""


@dataclass(frozen=True)
class _Metrics:
    values: dict[str, float]
    step: int
    timestamp_ms: int


class Tracker:
    """Logs to the run that the job runner made; prints only, where there is none.

    Failures to log never fail a training: they are counted and reported at the end.
    """

    def __init__(self, *, main_process: bool = True) -> None:
        self._run_id = os.environ.get("MLFLOW_RUN_ID") or None
        self._on = main_process and self._run_id is not None and bool(os.environ.get("MLFLOW_TRACKING_URI"))
        self._queue: queue.SimpleQueue[_Metrics | dict[str, str] | None] = queue.SimpleQueue()
        self._errors: list[str] = []
        self._thread = threading.Thread(target=self._send, name="tracker", daemon=True)
        if self._on:
            self._thread.start()

    def metrics(self, values: Mapping[str, float], *, step: int = 0) -> None:
        """Logs numbers, each under its name, at a step."""
        if self._on and values:
            self._queue.put(_Metrics(dict(values), step, int(time.time() * 1000)))

    def params(self, values: Mapping[str, Any]) -> None:
        """Logs settings as text."""
        if self._on and values:
            self._queue.put({name: str(value)[:PARAM_LENGTH] for name, value in values.items()})

    def close(self) -> None:
        """Waits until everything has been sent."""
        if not self._on:
            return
        self._queue.put(None)
        self._thread.join()
        if self._errors:
            print(f"MLflow did not take {len(self._errors)} of the messages; the first: {self._errors[0]}")

    def _send(self) -> None:
        from mlflow.entities import Metric, Param
        from mlflow.tracking import MlflowClient

        client = MlflowClient()
        while (item := self._queue.get()) is not None:
            try:
                if isinstance(item, _Metrics):
                    batch = [Metric(name, value, item.timestamp_ms, item.step) for name, value in item.values.items()]
                    client.log_batch(self._run_id, metrics=batch)
                else:
                    pairs = [Param(name, value) for name, value in item.items()]
                    for start in range(0, len(pairs), BATCH):
                        client.log_batch(self._run_id, params=pairs[start : start + BATCH])
            except Exception as error:
                self._errors.append(f"{type(error).__name__}: {error}")
