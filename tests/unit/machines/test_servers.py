from __future__ import annotations

from pathlib import Path

import pytest

from mlops.azure.endpoints import DeploymentSpec
from mlops.config.settings import DeploymentSettings, load
from mlops.core.resources import ModelVersion
from mlops.machines.probes import probes
from mlops.machines.servers import CODE, ENGINE, SCORING, Server, chosen
from mlops.rollout.plan import make_plan
from mlops.rollout.slot import deployment_spec
from tests.support.checkout import ROOT

A100, PLAIN = "Standard_NC24ads_A100_v4", "Standard_DS3_v2"


def server(environment: Path | None = None, **changes: object) -> Server:
    arguments = {"size": A100, "code": CODE, "script": "score.py", "concurrency": None, **changes}
    return chosen(environment, **arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("size", "environment"),
    [
        (A100, ENGINE),
        ("standard_nc4as_t4_v3", ENGINE),
        ("Standard_ND96isr_H100_v5", ENGINE),
        ("Standard_NV36ads_A10_v5", ENGINE),
        ("Standard_NV36adms_A10_v5", ENGINE),
        (PLAIN, SCORING),
        ("Standard_NV32as_v4", SCORING),
        ("Standard_ND96isr_MI300X_v5", SCORING),
    ],
)
def test_the_machine_decides(size: str, environment: Path) -> None:
    assert server(size=size).environment == environment


def test_what_is_set_beats_the_machine() -> None:
    assert server(SCORING).environment == SCORING
    assert server(Path("/elsewhere") / ENGINE, size=PLAIN).name == "vLLM"
    own = Path("environments/own/environment.yml")
    assert (server(own).environment, server(own).script) == (own, "score.py")
    assert server(code=Path("environments/own")).environment == SCORING
    assert server(script="other.py").environment == SCORING


def test_a_script_that_nothing_would_run_is_refused() -> None:
    with pytest.raises(ValueError, match=r"scoring_script\n.*vLLM in '.*' runs no script; take '.*'"):
        DeploymentSettings(instance_type=A100, environment=ENGINE, scoring_script="other.py")


def test_as_many_requests_as_the_server_is_good_for() -> None:
    assert server().max_concurrent_requests == 64
    assert server(size=PLAIN).max_concurrent_requests == 8
    assert (
        server(concurrency=3).max_concurrent_requests == server(size=PLAIN, concurrency=3).max_concurrent_requests == 3
    )


def spec(target: str) -> DeploymentSpec:
    settings = load(target, ROOT / "mlops.yaml")
    version = ModelVersion(name="m", version="1", id="azureml:m:1")
    return deployment_spec(settings, make_plan(settings, "e", None, ()), version, probes=probes(10**11))


def test_each_server_gets_what_is_its_own() -> None:
    engine, local = spec("production"), spec("local")
    assert (engine.environment, engine.scoring_script, dict(engine.variables)) == (ROOT / ENGINE, "engine.py", {})
    assert (local.environment, local.scoring_script) == (ROOT / SCORING, "score.py")
    assert local.variables.keys() == {"GUNICORN_CMD_ARGS", "WORKER_TIMEOUT", "OMP_NUM_THREADS"}
