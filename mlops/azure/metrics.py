"""Metrics of a job and of its steps, read through MLflow as the workspace tracks them.

MLflow's own plugin for ``azureml://`` logs in by itself, in ways of its own that end at a browser or at a code to type:
it knows nothing of a job on GitHub. So its address is asked directly, each call with a token of our login.
"""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mlops.azure.errors import translated
from mlops.azure.login import SCOPE
from mlops.azure.session import Session
from mlops.core.errors import AzureError

TRACKING = re.compile(r"^azureml://([^/]+)/mlflow/v[\d.]+(/subscriptions/[^?]+)")
"""A workspace's tracking uri; the API's version in it is not the one that is asked."""
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
    from mlflow.exceptions import MlflowException

    with translated("find the workspace's tracking server"):
        uri = session.ml.workspaces.get(session.ml.workspace_name).mlflow_tracking_uri
    logging.getLogger("mlflow").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        store = _store(session, uri)
        try:
            runs = _runs(store, job, experiment, steps)
            last: dict[str, float] = {}
            curves: dict[str, tuple[tuple[int, float], ...]] = {}
            for run in runs:
                last.update(run.data.metrics)
                for name in CURVES:
                    if name in run.data.metrics:
                        history = store.get_metric_history(run.info.run_id, name)
                        curves[name] = tuple(sorted((point.step, point.value) for point in history))
        except MlflowException as error:
            raise AzureError(f"read the metrics of '{job}': {str(error).splitlines()[0]}") from error
    return JobMetrics(job=job, last=last, curves=curves)


def _store(session: Session, uri: str) -> Any:
    """MLflow's client of a tracking server, with a token of ours for each call."""
    from mlflow.store.tracking.rest_store import RestStore
    from mlflow.utils.rest_utils import MlflowHostCreds

    match = TRACKING.match(uri)
    if match is None:
        raise AzureError(f"the workspace's tracking uri '{uri}' is of an unknown form")
    host = f"https://{match[1]}/mlflow/v2.0{match[2]}"
    return RestStore(lambda: MlflowHostCreds(host, token=session.credential.get_token(SCOPE).token))


def _runs(store: Any, job: str, experiment: str, steps: tuple[str, ...]) -> list[Any]:
    from mlflow.entities import ViewType
    from mlflow.exceptions import MlflowException

    runs: dict[str, Any] = {}
    entity = store.get_experiment_by_name(experiment)
    if entity is not None:
        query = f"tags.mlflow.rootRunId = '{job}'"
        for run in store.search_runs([entity.experiment_id], query, ViewType.ACTIVE_ONLY, max_results=100):
            runs[run.info.run_id] = run
    for name in (job, *steps):
        if name not in runs:
            try:
                runs[name] = store.get_run(name)
            except MlflowException:
                continue  # a step that never started has no run
    return list(runs.values())
