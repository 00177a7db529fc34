"""Jobs through the real SDK: submitted, streamed, listed, downloaded, cancelled, refused."""

# mypy: disable-error-code="untyped-decorator"

import contextlib
import io
import json
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.support.waiting import HANG_S, until

with warnings.catch_warnings():  # the SDK's own, on import
    warnings.simplefilter("ignore")
    from azure.ai.ml import Input, command, dsl, load_component, load_job
    from azure.ai.ml.entities import Data, Model, PipelineJob
    from azure.ai.ml.exceptions import JobException
    from azure.core.exceptions import HttpResponseError, ResourceNotFoundError

pytestmark = pytest.mark.filterwarnings("ignore:::azure|marshmallow|msal")

MAKE = """
type: command
name: make
version: 1
inputs:
  text: {type: string}
  times: {type: integer, default: 2, min: 1, max: 9}
  data: {type: uri_file, optional: true}
  extra: {type: string, optional: true}
outputs:
  out: {type: uri_folder}
code: ./code
environment: azureml:not-built-here:1
command: >-
  sh make.sh '${{inputs.text}}' ${{inputs.times}} ${{outputs.out}} $[[${{inputs.data}}]]
  $[[--extra '${{inputs.extra}}']]
"""
MAKE_SH = """
set -e
echo "text $1 times $2 rest: $4 $5" | tee "$3/made.txt"
[ -z "$4" ] || cat "$4" >> "$3/made.txt"
env | sort > "$3/env.txt"
"""
PACK = """
type: command
name: pack
version: 1
inputs:
  source: {type: uri_folder}
outputs:
  model: {type: mlflow_model}
environment: azureml:not-built-here:1
command: >-
  cp ${{inputs.source}}/made.txt ${{outputs.model}}/ &&
  printf 'flavors:\\n  python_function:\\n    loader_module: x\\n    rank: 3\\n' > ${{outputs.model}}/MLmodel
"""
ENVIRONMENT = "azureml:not-built-here:1"


@pytest.fixture
def parts(tmp_path: Path) -> dict[str, Any]:
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "make.sh").write_text(MAKE_SH)
    (tmp_path / "make.yml").write_text(MAKE)
    (tmp_path / "pack.yml").write_text(PACK)
    (tmp_path / "train.jsonl").write_text('{"a": 1}\n')
    return {name: load_component(tmp_path / f"{name}.yml") for name in ("make", "pack")}


def shell(line: str, **fields: Any) -> Any:
    """A command component of one line."""
    return command(command=line, environment=ENVIRONMENT, **fields)


def submit(client: Any, job: PipelineJob, **fields: Any) -> str:
    job.settings.default_compute = "serverless"
    return str(client.jobs.create_or_update(job, experiment_name="tests", **fields).name)


def wait(client: Any, name: str, *states: str) -> Any:
    """A job once it is in one of the states, or has ended."""
    expected = states or ("Completed", "Failed", "Canceled")

    def found() -> Any:
        job = client.jobs.get(name)
        return job if job.status in expected else None

    return until(found, what=f"{name}: {' or '.join(expected)}", every_s=0.1)


def tree(client: Any, name: str) -> dict[str, str]:
    """Names and states of all runs below a job."""
    children = {}
    for child in client.jobs.list(parent_job_name=name):
        children[child.display_name] = child.status
        children |= tree(client, child.name)
    return children


def logs(local: Any, run: str) -> str:
    folder = local.state / "blobs" / "mlopslocal" / "azureml" / "ExperimentRun" / f"dcid.{run}"
    return str((folder / "user_logs" / "std_log.txt").read_text())


def test_a_nested_pipeline(
    ml_client: Any, parts: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str], local: Any
) -> None:
    @dsl.pipeline()
    def inner(text: str, data: Input) -> Any:
        made = parts["make"](text=text, data=data)
        packed = parts["pack"](source=made.outputs.out)
        return {"model": packed.outputs.model}

    @dsl.pipeline()
    def outer(data: Input) -> Any:
        node = inner(text="hello", data=data)
        return {"trained_model": node.outputs.model}

    job = outer(data=Input(type="uri_file", path=str(tmp_path / "train.jsonl")))
    name = submit(ml_client, job, tags={"who": "me"}, description="a test")
    ml_client.jobs.stream(name)
    assert f"RunId: {name}" in capsys.readouterr().out  # a job that has ended already streams no log
    done = ml_client.jobs.get(name)
    assert (done.status, done.experiment_name, done.tags["who"]) == ("Completed", "tests", "me")
    assert done.studio_url.startswith("http://127.0.0.1:")
    assert tree(ml_client, name) == {"node": "Completed", "made": "Completed", "packed": "Completed"}

    ml_client.jobs.download(name, download_path=tmp_path / "all", all=True)
    made = (tmp_path / "all" / "named-outputs" / "trained_model" / "made.txt").read_text()
    assert made.startswith("text hello times 2 rest: /")
    assert made.endswith('{"a": 1}\n')
    log = (tmp_path / "all" / "artifacts" / "logs" / "azureml" / "executionlogs.txt").read_text()
    assert "Submitting 2 runs" in log
    assert "Step 'node/packed' finished" in log
    ml_client.jobs.download(name, download_path=tmp_path / "one", output_name="trained_model")
    assert (tmp_path / "one" / "named-outputs" / "trained_model" / "MLmodel").exists()

    uri = f"azureml://jobs/{name}/outputs/trained_model"
    model = ml_client.models.create_or_update(
        Model(name="made-here", version="1700000000", path=uri, type="mlflow_model")
    )
    assert (model.flavors["python_function"]["rank"], model.job_name) == ("3", name)

    node = next(iter(ml_client.jobs.list(parent_job_name=name)))
    steps = {child.display_name: child.name for child in ml_client.jobs.list(parent_job_name=node.name)}
    variables = dict(
        line.partition("=")[::2]
        for line in (
            local.state / "blobs" / "mlopslocal" / container(local) / "azureml" / steps["made"] / "out" / "env.txt"
        )
        .read_text()
        .splitlines()
    )
    assert variables["AZUREML_RUN_ID"] == steps["made"]
    assert variables["AZUREML_ROOT_RUN_ID"] == name
    assert variables["MLFLOW_EXPERIMENT_NAME"] == "tests"
    assert variables["MLFLOW_TRACKING_URI"].startswith("http://127.0.0.1:")
    assert {"MLFLOW_RUN_ID", "HF_HOME", "HF_HUB_OFFLINE"} <= set(variables)
    assert not any(key.startswith(("AZURE_CLIENT", "HTTPS_PROXY", "https_proxy")) for key in variables)
    assert "not built here" in logs(local, steps["made"])


def container(local: Any) -> str:
    containers = [str(path.name) for path in (local.state / "blobs" / "mlopslocal").iterdir()]
    return next(name for name in containers if name.startswith("azureml-blob"))


def test_a_failing_step_fails_the_pipeline(ml_client: Any, local: Any) -> None:
    broken = shell("echo looking; echo no such luck >&2; exit 7")

    @dsl.pipeline()
    def pipeline() -> None:
        first = broken()  # noqa: F841

    name = submit(ml_client, pipeline())
    with pytest.raises(JobException, match="Failed nodes: /first"):
        ml_client.jobs.stream(name)
    assert ml_client.jobs.get(name).status == "Failed"
    assert tree(ml_client, name)["first"] == "Failed"
    step = next(child.name for child in ml_client.jobs.list(parent_job_name=name) if child.display_name == "first")
    error = ml_client.jobs._runs_operations.get_run_details(step).as_dict()["error"]["error"]
    assert "exited with status code 7" in error["message"]
    assert "no such luck" in error["message"]
    assert "no such luck" in logs(local, step)


def test_the_rest_goes_on_where_the_job_says_so(ml_client: Any, tmp_path: Path) -> None:
    broken = shell("exit 1", outputs={"out": {"type": "uri_folder"}})
    needs = shell("ls ${{inputs.x}}", inputs={"x": Input(type="uri_folder")})
    go = tmp_path / "go"
    steady = shell(f"while [ ! -e {go} ]; do sleep 0.05; done")

    @dsl.pipeline()
    def pipeline() -> None:
        first = broken()
        second = needs(x=first.outputs.out)  # noqa: F841
        third = steady()  # noqa: F841

    job = pipeline()
    job.settings.continue_on_step_failure = True
    name = submit(ml_client, job)
    until(lambda: tree(ml_client, name).get("first") == "Failed", what="the end of the first step")
    go.touch()
    assert wait(ml_client, name).status == "Failed"
    assert tree(ml_client, name) == {"first": "Failed", "second": "Canceled", "third": "Completed"}


def test_cancel_ends_every_process(ml_client: Any, local: Any, tmp_path: Path) -> None:
    mark = f"sleep {4000 + int(time.time()) % 1000}.25"
    slow = shell(f"{mark} & {mark}; wait")

    @dsl.pipeline()
    def pipeline() -> None:
        long = slow()  # noqa: F841

    name = submit(ml_client, pipeline())
    wait(ml_client, name, "Running")
    until(lambda: len(sleeping(mark)) == 2, what="both programs' start")
    ml_client.jobs.begin_cancel(name).result()
    assert ml_client.jobs.get(name).status == "Canceled"
    assert tree(ml_client, name) == {"long": "Canceled"}
    assert not sleeping(mark)
    ml_client.jobs.stream(name)  # ends silently, as Azure's does
    ml_client.jobs.begin_cancel(name).result()  # twice is no error


def sleeping(mark: str) -> list[psutil.Process]:
    return [p for p in psutil.process_iter(["cmdline"]) if " ".join(p.info["cmdline"] or []) == mark]


def test_a_command_job(ml_client: Any, tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()
    go = tmp_path / "go"
    (tmp_path / "src" / "work.py").write_text(
        "import os, pathlib, sys, time\n"
        "print('at work', flush=True)\n"
        f"while not pathlib.Path({str(go)!r}).exists(): time.sleep(0.05)\n"
        "print('word', sys.argv[1], os.environ['COLOUR'], os.environ['RANK'], os.environ['WORLD_SIZE'])\n"
        "pathlib.Path(sys.argv[2], 'x.txt').write_text('made')\n"
    )
    job = command(
        command="python work.py ${{inputs.word}} ${{outputs.out}}",
        code=str(tmp_path / "src"),
        inputs={"word": "hi"},
        outputs={"out": {"type": "uri_folder"}},
        environment=ENVIRONMENT,
        environment_variables={"COLOUR": "green"},
        distribution={"type": "PyTorch", "process_count_per_instance": 1},
        compute="serverless",
        experiment_name="commands",
    )
    name = ml_client.jobs.create_or_update(job).name
    said = io.StringIO()
    with contextlib.redirect_stdout(said), ThreadPoolExecutor(1) as pool:
        streamed = pool.submit(ml_client.jobs.stream, name)
        # a stream of a job that has ended shows nothing, here as on Azure
        until(lambda: "at work" in said.getvalue(), what="the stream's begin")
        go.touch()
        streamed.result(HANG_S)
    assert "word hi green 0 1" in said.getvalue()
    assert ml_client.jobs.get(name).status == "Completed"
    ml_client.jobs.download(name, download_path=tmp_path / "down", all=True)
    assert (tmp_path / "down" / "named-outputs" / "out" / "x.txt").read_text() == "made"
    assert (tmp_path / "down" / "artifacts" / "user_logs" / "std_log.txt").exists()


def test_a_command_that_takes_too_long_is_canceled(ml_client: Any) -> None:
    job = command(command=f"sleep {HANG_S:.0f}", environment=ENVIRONMENT, compute="serverless")
    job.set_limits(timeout=1)
    name = ml_client.jobs.create_or_update(job).name
    assert wait(ml_client, name).status == "Canceled"


def test_describing_listing_archiving(ml_client: Any) -> None:
    quick = shell("true")

    @dsl.pipeline()
    def pipeline() -> None:
        quick()

    name = submit(ml_client, pipeline(), tags={"a": "1"})
    wait(ml_client, name)
    job = ml_client.jobs.get(name)
    job.tags["b"] = "2"
    job.display_name = "a new name"
    again = ml_client.jobs.create_or_update(job)
    assert (again.tags, again.display_name) == ({"a": "1", "b": "2"}, "a new name")
    assert ml_client.jobs.update(name, description="said").description == "said"
    listed = [item.name for item in ml_client.jobs.list()]
    assert name in listed
    ml_client.jobs.archive(name)
    assert name not in [item.name for item in ml_client.jobs.list()]
    assert name in [item.name for item in ml_client.jobs.list(list_view_type="ArchivedOnly")]
    ml_client.jobs.restore(name)
    assert name in [item.name for item in ml_client.jobs.list()]
    with pytest.raises(ResourceNotFoundError):
        ml_client.jobs.get("no-such-job")


def test_one_name_is_one_job(ml_client: Any) -> None:
    quick = shell("echo ${{inputs.word}}", inputs={"word": "x"})

    @dsl.pipeline()
    def pipeline(word: str) -> None:
        quick(word=word)

    name = f"named-{time.time_ns()}"

    def again(word: str) -> Any:
        job = pipeline(word=word)
        job.name = name
        job.display_name = "same"
        return submit(ml_client, job)

    assert again("one") == again("one") == name
    with pytest.raises(HttpResponseError, match="A job with this name already exists"):
        again("two")
    assert wait(ml_client, name).status == "Completed"


def test_what_is_refused_at_once(ml_client: Any, parts: dict[str, Any]) -> None:
    def refused(message: str, compute: str | None = None, **inputs: Any) -> None:
        @dsl.pipeline()
        def pipeline() -> None:
            node = parts["make"](**inputs)
            if compute:
                node.resources = None
                node.compute = compute

        job = pipeline()
        job.settings.default_compute = "serverless"
        with pytest.raises(HttpResponseError, match=message) as caught:
            ml_client.jobs.create_or_update(job, skip_validation=True)
        assert caught.value.status_code in (400, 404)
        assert json.loads(caught.value.response.text())["error"]["code"]

    refused("greater than the maximum 9", text="x", times=10)
    refused("integer is expected", text="x", times="many")
    refused("Required input 'text'", times=1)
    refused("does not exist", text="x", data=Input(type="uri_file", path="azureml://jobs/nobody/outputs/out"))


def test_an_output_feeds_the_next_job(ml_client: Any, parts: dict[str, Any]) -> None:
    @dsl.pipeline()
    def first() -> Any:
        return {"out": parts["make"](text="one").outputs.out}

    name = submit(ml_client, first())
    assert wait(ml_client, name).status == "Completed"

    @dsl.pipeline()
    def second(source: Input) -> Any:
        return {"model": parts["pack"](source=source).outputs.model}

    uri = f"azureml://jobs/{name}/outputs/out"
    other = submit(ml_client, second(source=Input(type="uri_folder", path=uri)))
    assert wait(ml_client, other).status == "Completed"


def test_registered_assets_are_inputs(ml_client: Any, parts: dict[str, Any], tmp_path: Path) -> None:
    rows = Data(name="job-rows", version="1", path=str(tmp_path / "train.jsonl"), type="uri_file")
    ml_client.data.create_or_update(rows)
    made = ml_client.components.create_or_update(parts["make"])
    (tmp_path / "job.yml").write_text(f"""
type: pipeline
settings: {{default_compute: azureml:serverless}}
outputs:
  out: {{type: uri_folder, path: "azureml://datastores/workspaceblobstore/paths/custom/${{{{name}}}}"}}
jobs:
  made:
    component: azureml:make:{made.version}
    inputs: {{text: registered, data: {{type: uri_file, path: "azureml:job-rows:1"}}}}
    outputs: {{out: "${{{{parent.outputs.out}}}}"}}
  last:
    command: cat ${{{{inputs.folder}}}}/made.txt && echo ${{{{inputs.number}}}}
    environment: {ENVIRONMENT}
    inputs: {{folder: "${{{{parent.jobs.made.outputs.out}}}}", number: 4.5}}
""")
    name = ml_client.jobs.create_or_update(load_job(tmp_path / "job.yml")).name
    assert wait(ml_client, name).status == "Completed"
    last = next(child.name for child in ml_client.jobs.list(parent_job_name=name) if child.display_name == "last")
    ml_client.jobs.download(last, download_path=tmp_path / "last")
    log = (tmp_path / "last" / "artifacts" / "user_logs" / "std_log.txt").read_text()
    assert '{"a": 1}' in log
    assert "4.5" in log
    assert ml_client.jobs.get(last).status == "Completed"


def test_the_rest_of_the_wire(ml_client: Any, local_env: dict[str, str]) -> None:
    """PATCH and DELETE, which the SDK does not call."""
    import requests

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from azure.identity import DefaultAzureCredential

    name = ml_client.jobs.create_or_update(
        command(command=f"sleep {HANG_S:.0f}", environment=ENVIRONMENT, compute="serverless")
    ).name
    group = f"/subscriptions/{local_env['AZURE_SUBSCRIPTION_ID']}/resourceGroups/local"
    base = f"https://management.azure.com{group}/providers/Microsoft.MachineLearningServices/workspaces"
    url = f"{base}/local/jobs/{name}?api-version=2025-01-01-preview"
    with requests.Session() as session, DefaultAzureCredential() as credential:
        token = credential.get_token("https://management.azure.com/.default").token
        session.headers["Authorization"] = f"Bearer {token}"
        patched = session.patch(url, json={"properties": {"tags": {"a": "b"}}}).json()
        assert patched["properties"]["tags"] == {"a": "b"}
        assert session.patch(url, json={"properties": {"command": "x"}}).status_code == 400
        assert session.delete(url).status_code == 409
        assert session.post(url.replace("?", "/cancel?")).status_code == 202
        wait(ml_client, name)
        gone = session.delete(url)
        assert gone.status_code == 202
        assert gone.headers["Location"].startswith("https://management.azure.com/")
        until(lambda: session.get(url).status_code == 404, what="the deletion")
        assert session.delete(url).status_code == 204
        elsewhere = session.get(url.replace("/workspaces/local/", "/workspaces/other/"))
        assert (elsewhere.status_code, elsewhere.json()["error"]["code"]) == (404, "ResourceNotFound")
        assert session.get(url.replace("resourceGroups/local", "resourceGroups/other")).status_code == 404
        sweep = {"properties": {"jobType": "Sweep", "experimentName": "e"}}
        refused = session.put(url.replace(name, f"{name}-sweep"), json=sweep)
        assert (refused.status_code, refused.json()["error"]["code"]) == (400, "BadRequest")
