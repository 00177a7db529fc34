"""Metrics of a job and of its steps, read through MLflow as the workspace tracks them."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mlops.azure.errors import translated
from mlops.azure.session import Session
from mlops.errors import AzureError

CURVES = ("train_loss", "eval_loss", "loss")


@dataclass(frozen=True, kw_only=True)
class JobMetrics:
    """What a job's steps logged: last values, and the points (step, value) of its loss curves."""

    job: str
    last: Mapping[str, float] = field(default_factory=dict)
    curves: Mapping[str, tuple[tuple[int, float], ...]] = field(default_factory=dict)


def read(session: Session, job: str, *, experiment: str, steps: tuple[str, ...] = ()) -> JobMetrics:
    """Collect the metrics of a job's own run and of its steps' runs.

    Args:
        session: the workspace.
        job: the pipeline job's name, which is its root run's id.
        experiment: the experiment that it ran under.
        steps: names of the steps' runs; found by the tag ``mlflow.rootRunId`` too.
    """
    import mlflow
    from mlflow.exceptions import MlflowException
    from mlflow.tracking import MlflowClient

    with translated("find the workspace's tracking server"):
        uri = session.ml.workspaces.get(session.ml.workspace_name).mlflow_tracking_uri
    logging.getLogger("mlflow").setLevel(logging.ERROR)
    logging.getLogger("azureml").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mlflow.set_tracking_uri(uri)
        client = MlflowClient()
        try:
            runs = _runs(client, job, experiment, steps)
            last: dict[str, float] = {}
            curves: dict[str, tuple[tuple[int, float], ...]] = {}
            for run in runs:
                last.update(run.data.metrics)
                for name in CURVES:
                    if name in run.data.metrics:
                        history = client.get_metric_history(run.info.run_id, name)
                        curves[name] = tuple(sorted((point.step, point.value) for point in history))
        except MlflowException as error:
            raise AzureError(f"read the metrics of '{job}': {str(error).splitlines()[0]}") from error
    return JobMetrics(job=job, last=last, curves=curves)


def _runs(client: Any, job: str, experiment: str, steps: tuple[str, ...]) -> list[Any]:
    from mlflow.exceptions import MlflowException

    found: dict[str, Any] = {}
    place = client.get_experiment_by_name(experiment)
    if place is not None:
        query = f"tags.mlflow.rootRunId = '{job}'"
        for run in client.search_runs([place.experiment_id], filter_string=query, max_results=100):
            found[run.info.run_id] = run
    for name in (job, *steps):
        if name not in found:
            try:
                found[name] = client.get_run(name)
            except MlflowException:
                continue  # a step that never started has no run
    return list(found.values())
