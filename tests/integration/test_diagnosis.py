"""Deployments that fail for each known cause, in a workspace that fails like Azure; and what is refused beforehand."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from mlops import diagnosis
from mlops.azure import artifacts, endpoints
from mlops.azure.endpoints import DeploymentSpec
from mlops.config.settings import Settings
from mlops.core.errors import MlopsError, PreconditionError
from mlops.core.resources import Deployment, ModelVersion, Probe, Probes
from mlops.local.daemon import client
from mlops.machines.probes import probes
from mlops.rollout import preflight
from mlops.rollout.plan import Plan
from tests.support.waiting import HANG_S

from .conftest import QUESTIONS, Bench

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # the SDK's own, at each load of an environment
]
SCORE = """
import os, signal, time
mode = os.environ["MODE"]
if mode == "import":
    import not_there

def load_weights():
    if mode == "raise":
        raise OSError("no file named model.safetensors")
    if mode == "cuda":
        raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")
    if mode == "sleep":
        print("loading checkpoint shards", flush=True)
        time.sleep(1e6)
    if mode == "worker":
        time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGKILL)
    if mode == "container":
        os.kill(os.getppid(), signal.SIGKILL)
        time.sleep(5)

def init():
    load_weights()

def run(raw):
    return {"output": "x"}
"""
FAMILY, SIZE = "standardNCADSA100v4Family", "Standard_NC24ads_A100_v4"
IMPATIENT = Probe(initial_delay_s=1, period_s=1, timeout_s=2, failure_threshold=20)
"""For what ends by the probes alone. What is looked for in the log stands there after 2 s."""
PATIENT = Probe(initial_delay_s=1, period_s=1, timeout_s=2, failure_threshold=600)


@pytest.fixture(scope="module", autouse=True)
def _short_of_cores() -> Iterator[None]:
    """Before the workspace starts: cores for one A100 and a little more."""
    os.environ["MLOPS_LOCAL_QUOTAS"] = f'{{"{FAMILY}": 30}}'
    yield
    os.environ.pop("MLOPS_LOCAL_QUOTAS", None)


@pytest.fixture
def code(tmp_path: Path) -> Path:
    place = tmp_path / "code"
    place.mkdir()
    (place / "score.py").write_text(SCORE, encoding="utf-8")
    return place


def spec_of(bench: Bench, code: Path, mode: str, *, size: str = "Standard_DS3_v2") -> DeploymentSpec:
    settings = bench.settings
    probe = IMPATIENT if mode in ("worker", "sleep") else PATIENT
    return DeploymentSpec(
        name="blue",
        endpoint=settings.endpoint.name,
        model_id=bench.model("1", QUESTIONS).id,
        instance_type=size,
        instance_count=1,
        environment=settings.root / settings.deployment.server.environment,
        code=code,
        scoring_script="score.py",
        max_concurrent_requests=1,
        request_timeout_ms=5000,
        probes=Probes(liveness=probe, readiness=probe),
        variables={"MODE": mode},
    )


def failed(bench: Bench, spec: DeploymentSpec) -> diagnosis.Failure:
    """Deploy what fails, and explain it."""
    endpoints.create(bench.session, spec.endpoint, description="", tags={})
    with pytest.raises(MlopsError) as caught:
        endpoints.deploy(bench.session, spec)
    found = diagnosis.failure(
        bench.session, with_size(bench.settings, spec.instance_type), spec.endpoint, "blue", caught.value
    )
    assert found.error is caught.value
    return found


def with_size(settings: Settings, size: str, **more: object) -> Settings:
    deployment = settings.deployment.model_copy(update={"instance_type": size, **more})
    return settings.model_copy(update={"deployment": deployment})


@pytest.mark.parametrize(
    ("mode", "kind", "said"),
    [
        (
            "raise",
            "model does not load",
            "OSError: no file named model.safetensors (score.py, line 9, in load_weights)",
        ),
        ("cuda", "out of memory", "Tried to allocate 2.00 GiB"),
        ("import", "scoring script", "No module named 'not_there' (score.py, line 5, in <module>)"),
        ("worker", "out of memory", "was sent SIGKILL! Perhaps out of memory"),
        ("container", "out of memory", "exit code 137"),
        ("sleep", "probes too short", "was still loading the model"),
    ],
    ids=["raise", "cuda", "import", "worker", "container", "sleep"],
)
def test_a_server_that_does_not_come_up_says_why(bench: Bench, code: Path, mode: str, kind: str, said: str) -> None:
    found = failed(bench, spec_of(bench, code, mode))

    assert found.cause is not None
    assert (found.cause.kind, found.error.exit_code) == (kind, 8)
    assert said in found.cause.what
    assert found.error.hint == found.cause.hint
    text = list(found.error.details)
    assert text[0] == f"cause: {found.cause.what}"
    assert "log of the storage-initializer:" in text
    assert "log of the inference-server:" in text
    assert len(text) <= 1 + 6 + 2 * 31
    assert "Storage initialized." in found.logs["storage"]
    assert "azmlinfsrv" in found.logs["server"]
    if kind == "model does not load":
        assert any("OSError: no file named" in line for line in text[text.index("log of the inference-server:") :])


def test_an_image_that_cannot_be_built_names_its_log(bench: Bench, code: Path) -> None:
    where = "https://registry.blob.core.windows.net/builds/logs/ca1/rawtext.log"
    rule = {
        "kind": "operation",
        "match": {"operation": "deployment.write", "resource": bench.settings.endpoint.name},
        "code": "ImageBuildFailure",
        "message": f"Image build failed. Build log: {where}",
    }
    client.request("faults", method="POST", body=rule)
    found = failed(bench, spec_of(bench, code, "fine"))

    assert found.cause is not None
    assert found.cause.kind == "image build"
    assert where in found.cause.what


def test_missing_quota_is_told_with_family_and_shortage(bench: Bench, code: Path) -> None:
    found = failed(bench, spec_of(bench, code, "fine", size="Standard_NC48ads_A100_v4"))

    assert found.cause is not None
    assert (found.cause.kind, found.error.exit_code, found.logs) == ("quota", 3, {})
    assert f"48 vCPUs of '{FAMILY}' are needed, 0 of 30 are in use, 18 are missing" in found.cause.what
    assert "limit of 48 vCPUs" in (found.error.hint or "")


# -- before anything is made -------------------------------------------------------------------------------------------


def plan_of(bench: Bench) -> Plan:
    return Plan(
        endpoint=bench.settings.endpoint.name,
        creates_endpoint=True,
        slot="blue",
        live=None,
        why="",
        before={},
        steps=(100,),
    )


def check(bench: Bench, version: ModelVersion, settings: Settings, *standing: Deployment) -> preflight.Preflight:
    return preflight.check(bench.session, settings, version, plan_of(bench), standing)


def test_what_a_rollout_needs_is_known_before_it_begins(bench: Bench) -> None:
    version = bench.model("1", QUESTIONS)

    found = check(bench, version, with_size(bench.settings, SIZE))

    size = sum(file.stat().st_size for file in (bench.folder / "1").rglob("*"))
    assert found.model_bytes == size == artifacts.model_bytes(bench.session, version)
    assert found.lines()[0] == f"quota: 24 vCPUs of {FAMILY} for 1 × {SIZE}; 30 of 30 are free"
    assert found.probes == probes(size)
    assert found.duration.total.total_seconds() > 60
    assert found.warnings == ()


def test_too_few_cores_are_refused_and_none_are_asked_for_by_a_slot_that_has_them(bench: Bench) -> None:
    version, settings = bench.model("1", QUESTIONS), with_size(bench.settings, SIZE, instance_count=2)

    with pytest.raises(PreconditionError, match=r"48 vCPUs of .* 18 are missing") as caught:
        check(bench, version, settings)
    assert "Quota" in (caught.value.hint or "")
    assert endpoints.get(bench.session, bench.settings.endpoint.name) is None

    slot = Deployment(
        name="blue",
        endpoint="e",
        state="Succeeded",
        model="m",
        model_version="1",
        instance_type=SIZE.upper(),
        instance_count=2,
    )
    found = check(bench, version, settings, slot)
    assert found.needs is not None
    assert (found.needs.cores, found.used) == (0, None)
    assert found.lines()[0] == f"quota: the slot keeps its 2 × {SIZE}"


@pytest.mark.parametrize(
    ("path", "needs", "said"),
    [("/usages$", 24, "the quota is not known"), ("/vmSizes$", None, "not known to this login")],
)
def test_a_login_that_may_not_read_the_quota_is_only_warned(
    bench: Bench, path: str, needs: int | None, said: str
) -> None:
    rule = {"kind": "status", "status": 403, "match": {"path": path}}
    client.request("faults", method="POST", body=rule)

    found = check(bench, bench.model("1", QUESTIONS), with_size(bench.settings, SIZE))

    assert (found.needs.cores if found.needs else None) == needs
    assert found.used is None
    assert said in found.warnings[0]


@pytest.mark.parametrize(
    ("size", "source", "says"),
    [
        ("Standard_NC6s_v3", "huggingface", "was retired on 2025-09-30"),
        ("Standard_Nothing_v1", "huggingface", "does not offer"),
        ("Standard_DS3_v2", "registry", "inference allow-list"),
    ],
)
def test_a_size_that_cannot_serve_is_refused(bench: Bench, size: str, source: str, says: str) -> None:
    base = bench.settings.base_model.model_copy(update={"source": source})
    settings = with_size(bench.settings.model_copy(update={"base_model": base}), size)

    with pytest.raises(PreconditionError, match=says):
        check(bench, bench.model("1", QUESTIONS), settings)


def test_a_version_whose_job_did_not_complete_is_refused(bench: Bench) -> None:
    from azure.ai.ml import command

    from mlops.azure import jobs, models

    ml, version = bench.session.ml, bench.model("1", QUESTIONS)
    name = f"job-{bench.settings.model.name}"
    job = command(
        command=f"sleep {HANG_S:.0f}", environment="azureml://registries/azureml/environments/sklearn-1.5/versions/1"
    )
    job.name = name
    ml.jobs.create_or_update(job)
    models.tag(bench.session, version, {"job": name})
    tagged = models.get(bench.session, version.name, version.version)
    assert tagged is not None

    with pytest.raises(PreconditionError, match=f"'{name}'.*not 'Completed'") as caught:
        check(bench, tagged, bench.settings)
    assert "mlops wait" in (caught.value.hint or "")
    jobs.cancel(bench.session, name)
    with pytest.raises(PreconditionError, match="Cancel"):
        check(bench, tagged, bench.settings)


def test_a_job_that_is_gone_is_only_warned_of(bench: Bench) -> None:
    from mlops.azure import models

    version = bench.model("1", QUESTIONS)
    models.tag(bench.session, version, {"job": "long-gone"})
    tagged = models.get(bench.session, version.name, version.version)
    assert tagged is not None

    assert "'long-gone'" in check(bench, tagged, bench.settings).warnings[0]


def test_a_model_that_is_not_there_has_no_known_size(bench: Bench) -> None:
    assert artifacts.model_bytes(bench.session, ModelVersion(name="nothing", version="1", id="")) is None


@pytest.mark.parametrize("fault", [{"kind": "status", "status": 429}, {"kind": "drop"}])
def test_a_listing_that_fails_once_is_asked_again(bench: Bench, fault: dict[str, object]) -> None:
    version = bench.model("1", QUESTIONS)
    client.request("faults", method="POST", body={**fault, "match": {"host": "blob", "query": "comp=list"}})

    size = sum(file.stat().st_size for file in (bench.folder / "1").rglob("*"))
    assert artifacts.model_bytes(bench.session, version) == size
    assert client.request("faults")[-1]["matched"] >= 1
