"""The tracking server: azureml-mlflow unmodified, and plain MLflow as a job's step uses it."""

from __future__ import annotations

import json
from typing import Any

import psutil
import pytest

from tests.support.waiting import until
from tests.unit.local.conftest import Local

JOB = """
import os
from azure.ai.ml import MLClient, command, dsl
from azure.identity import DefaultAzureCredential
client = MLClient(DefaultAzureCredential(), os.environ["AZURE_SUBSCRIPTION_ID"], "local", "local")
code = '''
import mlflow, pathlib
with mlflow.start_run():
    for step in range(3):
        mlflow.log_metric("train_loss", 1.0 / (step + 1), step=step)
    mlflow.log_params({"rate": 0.5})
    pathlib.Path("note.txt").write_text("noted")
    mlflow.log_artifact("note.txt")
try:
    mlflow.MlflowClient().search_logged_models(experiment_ids=["0"])
except mlflow.MlflowException as error:
    print("REFUSED", error)
'''
import tempfile, pathlib
folder = pathlib.Path(tempfile.mkdtemp())
(folder / "train.py").write_text(code)
train = command(command="python train.py", code=str(folder), environment="azureml:none:1")
@dsl.pipeline()
def inner():
    step = train()
@dsl.pipeline()
def outer():
    node = inner()
job = outer()
job.settings.default_compute = "serverless"
name = client.jobs.create_or_update(job, experiment_name="tracked").name
client.jobs.stream(name)
print("JOB", name)
"""

READ = """
import json, os
import mlflow
from azure.ai.ml import MLClient
from azure.identity import DefaultAzureCredential
client = MLClient(DefaultAzureCredential(), os.environ["AZURE_SUBSCRIPTION_ID"], "local", "local")
mlflow.set_tracking_uri(client.workspaces.get("local").mlflow_tracking_uri)
reader, name = mlflow.MlflowClient(), {name!r}
root = reader.get_run(name)
found = mlflow.search_runs(
    experiment_names=["tracked"], filter_string=f"tags.mlflow.rootRunId = '{{name}}'", output_format="list"
)
step = next(run for run in found if run.data.metrics)
parent = step.data.tags["mlflow.parentRunId"]
siblings = mlflow.search_runs(
    experiment_names=["tracked"], filter_string=f"tags.mlflow.parentRunId = '{{parent}}'", output_format="list"
)
history = reader.get_metric_history(step.info.run_id, "train_loss")
note = reader.download_artifacts(step.info.run_id, "note.txt")
print("READ", json.dumps({{
    "root": root.info.run_id, "status": root.info.status, "uri": root.info.artifact_uri,
    "names": sorted(run.info.run_name for run in found), "siblings": len(siblings),
    "history": [[m.step, m.value] for m in history], "params": step.data.params,
    "files": [item.path for item in reader.list_artifacts(step.info.run_id)],
    "note": open(note).read(), "step": step.info.status,
}}))
"""

OWN = """
import json, os, pathlib, tempfile
import mlflow
from azure.ai.ml import MLClient
from azure.identity import DefaultAzureCredential
client = MLClient(DefaultAzureCredential(), os.environ["AZURE_SUBSCRIPTION_ID"], "local", "local")
mlflow.set_tracking_uri(client.workspaces.get("local").mlflow_tracking_uri)
mlflow.set_experiment("by hand")
folder = pathlib.Path(tempfile.mkdtemp())
(folder / "sub").mkdir()
(folder / "sub" / "x.txt").write_text("x")
with mlflow.start_run(run_name="mine") as run:
    mlflow.log_metric("m", 1.5)
    mlflow.log_text("hello", "texts/a.txt")
    mlflow.log_artifacts(str(folder), "dir")
    with mlflow.start_run(nested=True) as nested:
        mlflow.log_metric("z", 2)
reader = mlflow.MlflowClient()
again = reader.get_run(run.info.run_id)
child = client.jobs._runs_operations.get_run_children(run.info.run_id)
print("OWN", json.dumps({
    "status": again.info.status, "metrics": again.data.metrics,
    "files": sorted(item.path for item in reader.list_artifacts(run.info.run_id)),
    "x": open(mlflow.artifacts.download_artifacts(run_id=run.info.run_id, artifact_path="dir") + "/sub/x.txt").read(),
    "parent": reader.get_run(nested.info.run_id).data.tags["mlflow.parentRunId"] == run.info.run_id,
    "children": [item.name for item in child] == [nested.info.run_id],
}))
try:
    reader.search_logged_models(experiment_ids=["0"])
except mlflow.MlflowException as error:
    print("REFUSED", error)
"""


def row(out: str, mark: str) -> str:
    return next(line.partition(" ")[2] for line in out.splitlines() if line.startswith(f"{mark} "))


@pytest.mark.slow
def test_what_a_step_logs_is_read_through_azureml_mlflow(local: Any) -> None:
    name = row(local.run_python(JOB), "JOB")
    read = json.loads(row(local.run_python(READ.format(name=name)), "READ"))
    assert (read["root"], read["status"], read["step"]) == (name, "FINISHED", "FINISHED")
    assert read["uri"].startswith("azureml://eastus.api.azureml.ms/mlflow/v2.0/subscriptions/")
    assert read["names"] == ["node", "outer", "step"]
    assert read["siblings"] == 1
    assert read["history"] == [[0, 1.0], [1, 0.5], [2, pytest.approx(1 / 3)]]
    assert read["params"] == {"rate": "0.5"}
    assert read["files"] == ["note.txt", "user_logs"]
    assert read["note"] == "noted"
    logs = list((local.state / "blobs").glob("*/azureml/ExperimentRun/dcid.*/user_logs/std_log.txt"))
    assert any("REFUSED ENDPOINT_NOT_FOUND" in log.read_text() for log in logs)


@pytest.mark.slow
def test_runs_that_a_client_makes_by_itself(local: Any) -> None:
    out = local.run_python(OWN)
    own = json.loads(row(out, "OWN"))
    assert own == {
        "status": "FINISHED",
        "metrics": {"m": 1.5},
        "files": ["dir", "texts"],
        "x": "x",
        "parent": True,
        "children": True,
    }
    assert "ENDPOINT_NOT_FOUND" in row(out, "REFUSED")


def test_a_server_whose_record_is_gone_is_replaced_not_doubled(own_local: Local) -> None:
    own_local.start()
    record = own_local.state / "mlflow" / "server.json"
    first = json.loads(until(lambda: record.read_text() if record.exists() else ""))
    record.unlink()
    second = json.loads(until(lambda: record.read_text() if record.exists() else "", what="another server's record"))
    assert second["pid"] != first["pid"]
    assert not psutil.pid_exists(first["pid"])
