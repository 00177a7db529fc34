"""The known causes: each recognised by what Azure and the containers say, and nothing else taken for them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlops.azure.errors import classified
from mlops.config.settings import DeploymentSettings, load
from mlops.core.errors import AzureError, PreconditionError
from mlops.diagnosis import Cause, container_log, explain, report_lines
from mlops.machines.quota import PAGE, shortage_in
from tests.support.checkout import ROOT

DEPLOYMENT = load("production", ROOT / "mlops.yaml").deployment
QUOTA = (
    "The request is invalid. Not enough quota available for Standard_NC48ads_A100_v4 in SubscriptionId s. "
    "Current usage/limit: 24/30. Additional needed: 48 Please see troubleshooting guide, available here: https://aka.ms"
)
CRASHED = "ResourceNotReady User container has crashed or terminated."
TRACEBACK = """\
2026-11-21 12:07:25,226 I [78] azmlinfsrv.user_script - Invoking user's init function
2026-11-21 12:07:25,226 E [78] azmlinfsrv - User's init function failed
2026-11-21 12:07:25,230 E [78] azmlinfsrv - Encountered Exception Traceback (most recent call last):
  File "/azureml-envs/lib/python3.11/site-packages/azureml_inference_server_http/server/user_script.py", line 119, in x
    self._user_init()
  File "/var/azureml-app/240101/score.py", line 15, in init
    load_weights()
  File "/azureml-envs/lib/python3.11/site-packages/transformers/modeling_utils.py", line 7, in load
    raise OSError("no weights")
    ^^^^^^^^^^^^^^^^^^^^^^^^^^^
OSError: no file named model.safetensors

The above exception was the direct cause of the following exception:

Traceback (most recent call last):
  File "/azureml-envs/lib/python3.11/site-packages/azureml_inference_server_http/server/aml_blueprint.py", line 1, in s
    self.user_script.invoke_init()
azureml_inference_server_http.server.user_script.UserScriptException: Caught an unhandled exception from the user script

2026-11-21 12:07:25,513 E [76] gunicorn.error - Reason: Worker failed to boot.
"""
IMPORT = """\
2026-11-21 12:08:35,765 E [61] azmlinfsrv - Traceback (most recent call last):
  File "/var/azureml-app/score.py", line 5, in <module>
    import einops
ModuleNotFoundError: No module named 'einops'

The above exception was the direct cause of the following exception:

Traceback (most recent call last):
  File "/lib/python3.11/site-packages/azureml_inference_server_http/server/aml_blueprint.py", line 91, in setup
    self.user_script.load_script(config.app_root)
azureml_inference_server_http.server.user_script.UserScriptImportException: Failed to import user script because it \
raised an unhandled exception
"""
LOADING = """\
2026-11-21 12:07:46,797 I [72] azmlinfsrv.user_script - Invoking user's init function
Loading checkpoint shards:  17%|#7        | 1/6 [01:40<08:20, 100.0s/it]
"""
ENGINE = """\
python -P -m vllm.entrypoints.openai.api_server --model /m --port 5001
(Worker pid=9) INFO 11-21 18:55:42 [gpu_model_runner.py:68] Starting to load model /m...
"""
CORE = """(Worker pid=9) ERROR 11-21 20:20:32 [multiproc_executor.py:953] WorkerProc failed to start.
(Worker pid=9) ERROR 11-21 20:20:32 [multiproc_executor.py:953] Traceback (most recent call last):
(Worker pid=9) ERROR 11-21 20:20:32 [multiproc_executor.py:953]   File "/lib/python3.11/x.py", line 9, in load
(Worker pid=9) ERROR 11-21 20:20:32 [multiproc_executor.py:953]     with safe_open(path) as f:
(Worker pid=9) ERROR 11-21 20:20:32 [multiproc_executor.py:953] SafetensorError: file not fully covered
(EngineCore pid=8) Process EngineCore:
(EngineCore pid=8) Traceback (most recent call last):
(EngineCore pid=8)   File "/lib/python3.11/y.py", line 9, in wait
(EngineCore pid=8) Exception: WorkerProc initialization failed. See stack trace for root cause.
Traceback (most recent call last):
  File "uvloop/loop.pyx", line 1515, in uvloop.loop.Loop.run_until_complete
  File "/lib/python3.11/z.py", line 9, in launch
RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}
"""


def log(own: str, *events: str) -> str:
    """What getLogs answers."""
    events_text = "\n".join(f"Kind: Pod, Name: {name}, Type: Warning, Time: t, Message: said" for name in events)
    return f"Instance status:\nSystemSetup: Succeeded\n\nContainer events:\n{events_text}\n\nContainer logs:\n{own}\n"


BANNER = "Azure ML Inferencing HTTP server\n\nWorker Timeout (seconds): None\nLiveness Probe: GET   127.0.0.1:31311/\n"


def crash(own: str, *events: str) -> dict[str, str]:
    return {"storage": log("Storage initialized.", *events), "server": log(BANNER + own, *events)}


TABLE: list[tuple[str, str, dict[str, str], str, str, str]] = [
    # name, Azure's sentence, logs, kind, what is said, what to do
    ("quota", QUOTA, {}, "quota", "48 vCPUs of 'fam' are needed, 24 of 30 are in use, 42 are missing", PAGE),
    (
        "endpoints",
        "Endpoint Quota reached for subscription s.Current usage/limit: 100/100",
        {},
        "quota",
        "number of endpoints is used up (100/100)",
        "mlops cleanup",
    ),
    ("other quota", "OutOfQuota: Kubernetes unschedulable", {}, "quota", "does not suffice", PAGE),
    ("capacity", "OutOfCapacity the region lacks", {}, "capacity", "no machine", "try again later"),
    (
        "image, url",
        "ImageBuildFailure Image build failed. Build log: https://acr.blob.core.windows.net/c/logs/cb9u/rawtext.log",
        {},
        "image build",
        "https://acr.blob.core.windows.net/c/logs/cb9u/rawtext.log",
        "pin",
    ),
    (
        "image, path",
        'ImageBuildFailure failed; the build log is available in the workspace blob store "b" under the '
        'path "/azureml/ImageLogs/id/build.log"',
        {},
        "image build",
        "/azureml/ImageLogs/id/build.log",
        "pin",
    ),
    (
        "image, none",
        "ImageBuildFailure Failed building the environment.",
        {},
        "image build",
        "azureml/ImageLogs",
        "pin",
    ),
    ("pull", CRASHED, crash("", "ImagePullFailed"), "image pull", "could not pull", "AcrPull"),
    (
        "storage right",
        "BadArgument",
        {"storage": log("ErrorCode:AuthorizationPermissionMismatch", "DownloadFailed")},
        "download",
        "may not read the model",
        "Storage Blob Data Reader",
    ),
    (
        "storage, gone",
        "BadArgument",
        {"storage": log("BlobNotFound", "DownloadFailed")},
        "download",
        "could not download",
        "still in the workspace's storage",
    ),
    (
        "startup",
        "BadArgument Startup task failed due to authorization error",
        {},
        "identity",
        "the identity 'mlops-endpoint' may not read",
        "AcrPull",
    ),
    (
        "rights",
        "AuthorizationFailed The client 'c' does not have authorization to perform action "
        "'Microsoft.MachineLearningServices/workspaces/onlineEndpoints/deployments/write' over scope",
        {},
        "rights",
        "deployments/write'",
        "AzureML Data Scientist",
    ),
    (
        "disk",
        "BadArgument",
        {"storage": log("OSError: No space left on device", "DownloadFailed")},
        "disk",
        "disk of 'Standard_NC24ads_A100_v4'",
        "larger disk",
    ),
    (
        "gpu",
        CRASHED,
        crash(
            TRACEBACK.replace(
                "OSError: no file named model.safetensors",
                "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB",
            )
        ),
        "out of memory",
        "Tried to allocate 2.00 GiB",
        "more GPU memory",
    ),
    (
        "engine, no room",
        CRASHED,
        crash(
            "(EngineCore pid=9) ValueError: 1.5 GiB KV cache is needed, which is larger "
            "than the available KV cache memory (0.7 GiB)."
        ),
        "out of memory",
        "KV cache memory",
        "--max-model-len",
    ),
    (
        "engine, its process",
        CRASHED,
        crash(CORE),
        "model does not load",
        "SafetensorError: file not fully covered",
        "traceback",
    ),
    (
        "engine, its model",
        CRASHED,
        crash(
            'Traceback (most recent call last):\n  File "/lib/x.py", line 9\n'
            "ValidationError: 1 validation error for ModelConfig\n  Value error, model type `nope`\n"
        ),
        "model does not load",
        "1 validation error for ModelConfig Value error, model type `nope`",
        "traceback",
    ),
    (
        "engine, its arguments",
        CRASHED,
        crash("api_server.py: error: unrecognized arguments: --max-model-length 9"),
        "engine",
        "unrecognized arguments: --max-model-length 9",
        "environments/serve/environment.yml",
    ),
    (
        "engine, no packages",
        "ImageNotFound The image of 'e' has a command of its own, whose packages are not installed "
        "on this machine: run make engine",
        crash("", "OOMKilled"),
        "packages",
        "not installed on this machine",
        "make engine",
    ),
    (
        "engine, no code",
        CRASHED,
        crash("sh: 1: code: no engine.py below /var/azureml-app; the deployment needs environments/serve as its code"),
        "engine",
        "no engine.py below /var/azureml-app",
        "correct that",
    ),
    (
        "driver",
        CRASHED,
        crash(
            "(Worker pid=9) ERROR 11-21 20:20:32 [x.py:9] RuntimeError: The NVIDIA driver on your "
            "system is too old (found version 12040)."
        ),
        "GPU driver",
        "driver: RuntimeError: The NVIDIA driver",
        "deployment.instance_type",
    ),
    (
        "engine, no model",
        CRASHED,
        crash("no model below AZUREML_MODEL_DIR '/m': one folder must hold config.json and *.safetensors"),
        "engine",
        "no model below AZUREML_MODEL_DIR '/m'",
        "environments/serve/environment.yml",
    ),
    (
        "killed worker",
        "User container was not ready",
        crash("Worker (pid:9) was sent SIGKILL! Perhaps out of memory?", "ReadinessProbeFailed"),
        "out of memory",
        "memory of 'Standard_NC24ads_A100_v4'",
        "more memory",
    ),
    (
        "exit code",
        CRASHED,
        {
            "server": log("")
            .replace("Message: said", "")
            .replace(
                "Container events:\n",
                "Container events:\nKind: Pod, Name: ContainerCrashed, Type: Warning, Time: t, "
                "Message: Container terminated with exit code 137\n",
            )
        },
        "out of memory",
        "exit code 137",
        "more memory",
    ),
    ("OOMKilled", CRASHED, crash("", "OOMKilled"), "out of memory", "OOMKilled", "more memory"),
    (
        "slow worker",
        CRASHED,
        crash(LOADING + "[CRITICAL] WORKER TIMEOUT (pid:9)\nWorker (pid:9) was sent SIGKILL! Perhaps out of memory?"),
        "worker timeout",
        "ended while it loaded",
        "WORKER_TIMEOUT",
    ),
    (
        "import",
        CRASHED,
        crash(IMPORT),
        "scoring script",
        "No module named 'einops' (score.py, line 5, in <module>)",
        "add the package of 'einops' to",
    ),
    (
        "no init",
        CRASHED,
        crash("User script at /a/score.py does not have a init() function defined."),
        "scoring script",
        "does not have a init()",
        "scoring_script",
    ),
    (
        "init",
        CRASHED,
        crash(TRACEBACK, "ContainerCrashed"),
        "model does not load",
        "OSError: no file named model.safetensors (240101/score.py, line 15, in init)",
        "traceback",
    ),
    (
        "probes",
        "User container was not ready within 310 seconds",
        crash(LOADING, "ReadinessProbeFailed"),
        "probes too short",
        "was still loading the model",
        "liveness_initial_delay_s",
    ),
    (
        "probes, engine",
        "User container was not ready within 310 seconds",
        crash(ENGINE, "ReadinessProbeFailed"),
        "probes too short",
        "was still loading the model",
        "liveness_initial_delay_s",
    ),
    (
        "engine, unanswering",
        "ResourceNotReady",
        crash(ENGINE + "INFO:     Application startup complete.\n", "ReadinessProbeFailed"),
        "not ready",
        "did not answer its probes",
        "log",
    ),
    (
        "liveness",
        CRASHED,
        crash(LOADING, "LivenessProbeFailed", "BackOff"),
        "probes too short",
        "still loading",
        "liveness_initial_delay_s",
    ),
    ("silent", CRASHED, crash("", "BackOff"), "not ready", "names no known cause", "mlops endpoint logs"),
    (
        "unanswering",
        "ResourceNotReady",
        crash(LOADING + "Users's init has completed successfully", "ReadinessProbeFailed"),
        "not ready",
        "did not answer its probes",
        "log",
    ),
]


@pytest.mark.parametrize(
    ("error", "logs", "kind", "what", "hint"), [row[1:] for row in TABLE], ids=[r[0] for r in TABLE]
)
def test_each_cause_is_told_with_what_to_do_next(
    error: str, logs: dict[str, str], kind: str, what: str, hint: str
) -> None:
    cause = explain(error, logs, DEPLOYMENT, family="fam")

    assert cause is not None
    assert cause.kind == kind
    assert what in cause.what
    assert hint in cause.hint


@pytest.mark.parametrize(
    ("error", "logs"),
    [
        ("", {}),
        ("The deployment name 'x' is not valid", {}),
        ("InternalServerError An internal server error occurred.", {}),
        (
            "Conflict",
            {"storage": log("Storage initialized."), "server": log("Users's init has completed successfully")},
        ),
    ],
)
def test_what_is_not_known_is_not_guessed(error: str, logs: dict[str, str]) -> None:
    assert explain(error, logs, DEPLOYMENT) is None


def test_a_named_identity_is_the_one_that_needs_the_role() -> None:
    named = DEPLOYMENT.model_copy(update={"identity": "/subscriptions/s/…/mine"})
    cause = explain("", {"storage": log("ErrorCode:AuthorizationPermissionMismatch", "DownloadFailed")}, named)
    assert cause is not None
    assert "the identity '/subscriptions/s/…/mine'" in cause.hint


noise = st.lists(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=40).filter(lambda text: "Traceback" not in text),
    max_size=60,
).map("\n".join)


@given(error=st.text(max_size=200), storage=noise, server=noise)
def test_any_text_is_taken(error: str, storage: str, server: str) -> None:
    logs = {"storage": log(storage), "server": server}
    explanation = explain(error, logs, DEPLOYMENT)

    assert explanation is None or (explanation.what and explanation.hint)
    for line in report_lines(explanation, logs):
        assert line.isprintable() or not any(ord(character) < 32 and character != "\t" for character in line)


@given(before=noise, after=st.lists(st.sampled_from(["2026-11-21 I gunicorn - Worker exiting", "", "    m/"])))
def test_the_root_of_the_last_traceback_is_found_whatever_stands_around_it(before: str, after: list[str]) -> None:
    text = before + "\n" + TRACEBACK + "\n".join(after)

    error = container_log.raised(log(text))
    excerpt = container_log.excerpt(log(text))

    assert error is not None
    assert error.exception == "OSError: no file named model.safetensors"
    assert error.location == "240101/score.py, line 15, in init"
    assert len(excerpt) <= 30
    assert any("no file named model.safetensors" in line for line in excerpt)


@given(lines=st.integers(0, 200))
def test_an_excerpt_is_the_end_and_never_longer_than_said(lines: int) -> None:
    excerpt = container_log.excerpt(log("\n".join(f"line {number}" for number in range(lines))))
    assert len(excerpt) == min(30, max(lines, 0))
    if lines:
        assert excerpt[-1] == f"line {lines - 1}"


def test_the_last_of_two_starts_counts() -> None:
    first = TRACEBACK.replace("no file named model.safetensors", "the first start")
    error = container_log.raised(log(first + "Booting worker\n" + TRACEBACK))
    assert error is not None
    assert error.exception == "OSError: no file named model.safetensors"


def test_colours_and_control_characters_are_left_out() -> None:
    assert container_log.plain("\x1b[31mred\x1b[0m \x1b]0;title\x07\x08plain\rnext") == "red plain\nnext"


def test_what_is_told_has_the_cause_the_events_and_both_logs_labelled() -> None:
    logs = crash(TRACEBACK, "ContainerCrashed", "BackOff", "BackOff")
    text = report_lines(Cause(kind="k", what="the model does not load", hint="h"), logs)

    assert text[0] == "cause: the model does not load"
    assert text[1:4] == ["events:", "  ContainerCrashed: said", "  BackOff: said"]
    assert text[4:6] == ["log of the storage-initializer:", "  Storage initialized."]
    assert text[6] == "log of the inference-server:"
    assert all(line.startswith("  ") for line in text[7:])
    assert report_lines(None, {}) == []


def test_azures_refusal_for_quota_says_what_is_missing_and_where_to_ask() -> None:
    short = shortage_in(QUOTA)
    assert short is not None
    assert (short.size, short.needed, short.used, short.limit, short.missing) == (
        "Standard_NC48ads_A100_v4",
        48,
        24,
        30,
        42,
    )
    error = classified("deploy to the slot 'blue'", QUOTA)
    assert isinstance(error, PreconditionError)
    assert "42 are missing" in error.message
    assert PAGE in (error.hint or "")


def test_a_sentence_without_a_known_cause_stays_azures() -> None:
    error = classified("deploy", "An internal server error occurred.")
    assert type(error) is AzureError
    assert error.message == "deploy: An internal server error occurred."


def test_settings_of_another_deployment_are_named() -> None:
    small = DeploymentSettings(instance_type="Standard_DS1_v2")
    cause = explain(CRASHED, crash("", "OOMKilled"), small)
    assert cause is not None
    assert "'Standard_DS1_v2'" in cause.what
