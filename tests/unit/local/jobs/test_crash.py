"""Processes killed while jobs run: nothing is lost, nothing is left behind."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.support.waiting import HANG_S, until

SUBMIT = """
import os, sys
from azure.ai.ml import MLClient, command
from azure.identity import DefaultAzureCredential
client = MLClient(DefaultAzureCredential(), os.environ["AZURE_SUBSCRIPTION_ID"], "local", "local")
out = {{"out": {{"type": "uri_folder"}}}}
job = command(command={line!r}, environment="azureml:none:1", compute="serverless", outputs=out)
print("JOB", client.jobs.create_or_update(job).name)
"""
STATE = """
import os
from azure.ai.ml import MLClient
from azure.identity import DefaultAzureCredential
client = MLClient(DefaultAzureCredential(), os.environ["AZURE_SUBSCRIPTION_ID"], "local", "local")
status = client.jobs.get({name!r}).status
print("STATE", getattr(status, "value", status))
error = client.jobs._runs_operations.get_run_details({name!r}).as_dict().get("error")
print("ERROR", error["error"]["message"] if error else "")
"""


def submit(local: Any, line: str) -> str:
    out = local.run_python(SUBMIT.format(line=line))
    return str(next(row.split()[1] for row in out.splitlines() if row.startswith("JOB ")))


def state(local: Any, name: str) -> tuple[str, str]:
    out = local.run_python(STATE.format(name=name))
    rows = dict(row.partition(" ")[::2] for row in out.splitlines() if row.startswith(("STATE ", "ERROR ")))
    return rows["STATE"], rows["ERROR"]


def status(local: Any, name: str) -> str:
    """Straight from the database, which the job's process writes."""
    import sqlite3

    connection = sqlite3.connect(local.state / "workspace.sqlite", timeout=HANG_S)
    try:
        row = connection.execute("SELECT status FROM run WHERE name = ?", (name,)).fetchone()
    finally:
        connection.close()
    return str(row[0])


def sleepers(mark: str) -> list[psutil.Process]:
    return [p for p in psutil.process_iter(["cmdline"]) if " ".join(p.info["cmdline"] or []) == mark]


def runner(local: Any, name: str) -> int:
    return int((local.state / "jobs" / name / "lock").read_text())


@pytest.mark.slow
def test_a_job_outlives_its_daemon_and_is_failed_when_it_dies_itself(own_local: Any, tmp_path: Path) -> None:
    go = tmp_path / "go"
    mark = f"sleep {3000 + os.getpid() % 97}.5"
    local = own_local
    doomed = submit(local, mark)
    until(lambda: sleepers(mark))
    name = submit(local, f"while [ ! -e {go} ]; do sleep 0.1; done; echo made > ${{{{outputs.out}}}}/made.txt")
    until(lambda: status(local, name) == "Running")
    os.kill(local.record()["pid"], signal.SIGKILL)
    go.touch()
    until(lambda: status(local, name) == "Completed")
    assert status(local, doomed) == "Running"

    local.start()
    assert state(local, name)[0] == "Completed"
    made = next((local.state / "blobs").glob(f"*/*/azureml/{name}/out/made.txt"))
    assert made.read_text() == "made\n"
    assert state(local, doomed)[0] == "Running"

    os.kill(runner(local, doomed), signal.SIGKILL)
    until(lambda: status(local, doomed) == "Failed")
    assert not sleepers(mark)
    assert "ended unexpectedly" in state(local, doomed)[1]


@pytest.mark.slow
def test_a_job_that_dies_with_its_daemon_is_failed_by_the_next(own_local: Any) -> None:
    mark = f"sleep {3000 + os.getpid() % 97}.75"
    local = own_local
    name = submit(local, mark)
    until(lambda: sleepers(mark))
    os.kill(local.record()["pid"], signal.SIGKILL)
    os.kill(runner(local, name), signal.SIGKILL)
    local.start()
    until(lambda: status(local, name) == "Failed")
    until(lambda: not sleepers(mark))


@pytest.mark.slow
def test_stopping_ends_jobs_and_leaves_nothing(own_local: Any) -> None:
    mark = f"sleep {3000 + os.getpid() % 97}.125"
    local = own_local
    name = submit(local, mark)
    until(lambda: sleepers(mark))
    local.stop()
    assert not sleepers(mark)
    assert status(local, name) == "Canceled"
    leftovers = [p for p in psutil.process_iter(["cmdline"]) if str(local.state) in " ".join(p.info["cmdline"] or [])]
    assert not leftovers


LOGGING = """
import os, pathlib, tempfile
from azure.ai.ml import MLClient, command
from azure.identity import DefaultAzureCredential
client = MLClient(DefaultAzureCredential(), os.environ["AZURE_SUBSCRIPTION_ID"], "local", "local")
folder = pathlib.Path(tempfile.mkdtemp())
(folder / "log.py").write_text('''
import time
from pathlib import Path
import mlflow
with mlflow.start_run():
    for step in range(20):
        mlflow.log_metric("m", step, step=step)
        print("logged", step, flush=True)
        while step == 3 and not Path("GO").exists():
            time.sleep(0.05)
''')
job = command(command="python log.py", code=str(folder), environment="azureml:none:1", compute="serverless")
print("JOB", client.jobs.create_or_update(job).name)
"""


@pytest.mark.slow
def test_a_job_outlasts_the_tracking_server(own_local: Any, tmp_path: Path) -> None:
    import json
    import sqlite3

    local = own_local
    go = tmp_path / "go"
    out = local.run_python(LOGGING.replace("GO", str(go)))
    name = next(row.split()[1] for row in out.splitlines() if row.startswith("JOB "))
    record = local.state / "mlflow" / "server.json"
    before = json.loads(record.read_text())
    log = next((local.state / "blobs").glob("*/azureml"), local.state) / "ExperimentRun" / f"dcid.{name}"
    std_log = log / "user_logs" / "std_log.txt"
    until(lambda: std_log.exists() and "logged 3" in std_log.read_text())
    os.kill(before["pid"], signal.SIGKILL)
    go.touch()
    until(lambda: status(local, name) in ("Completed", "Failed"))
    assert status(local, name) == "Completed"
    after = json.loads(record.read_text())
    assert (after["port"], after["pid"] != before["pid"]) == (before["port"], True)
    connection = sqlite3.connect(local.state / "mlflow" / "mlflow.db", timeout=HANG_S)
    try:
        (count,) = connection.execute("SELECT COUNT(DISTINCT step) FROM metrics WHERE key = 'm'").fetchone()
    finally:
        connection.close()
    assert count == 20
