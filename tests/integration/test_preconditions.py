"""What must hold before money is spent, against a workspace whose subscription is short of it."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from mlops.azure import computes, endpoints
from mlops.config.settings import Settings
from mlops.core.errors import PreconditionError
from mlops.rollout.deploy import deploy
from mlops.training import preflight

from .conftest import QUESTIONS, Bench

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # the SDK's own, at each load of an environment
]


@pytest.fixture(scope="module", autouse=True)
def _short_of_everything() -> Iterator[None]:
    """Before the workspace starts: no Dedicated A100 for a whole machine, and a name that somebody has."""
    names = {"MLOPS_LOCAL_QUOTAS": '{"standardNCADSA100v4Family": 10}', "MLOPS_LOCAL_TAKEN_NAMES": "somebodys"}
    os.environ.update(names)
    yield
    for name in names:
        os.environ.pop(name, None)


def with_base(settings: Settings, **choice: str) -> Settings:
    return settings.model_copy(update={"base_model": settings.base_model.model_copy(update=choice)})


def with_size(settings: Settings, size: str) -> Settings:
    return settings.model_copy(update={"compute": settings.compute.model_copy(update={"size": size, "name": "other"})})


def test_where_dedicated_cannot_be_had_the_cluster_is_low_priority(workbench: Bench) -> None:
    made = computes.create(workbench.session, workbench.settings.compute)

    assert (made.tier.lower(), made.max_nodes) == ("low_priority", 2) or (made.tier, made.max_nodes) == (
        "LowPriority",
        2,
    )
    cluster, size = preflight.check_compute(workbench.session, workbench.settings, base=None)
    assert (cluster.name, size.gpus) == (workbench.settings.compute.name, 1)


def test_a_retired_catalogue_model_is_refused_with_its_date_except_in_the_local_workspace(workbench: Bench) -> None:
    local = with_base(workbench.settings, source="registry")
    found = preflight.find_base_model(workbench.session, local)
    assert found is not None
    assert found.version == "15"

    with pytest.raises(PreconditionError, match="2025-08-30") as caught:
        preflight.find_base_model(workbench.session, local.model_copy(update={"target": "staging"}))
    assert "huggingface" in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("size", "says"),
    [
        ("Standard_NC4as_T4_v3", "finetune allow-list"),
        ("Standard_NC6s_v3", "was retired on 2025-09-30"),
        ("Standard_Nothing_v1", "allow-list"),
    ],
)
def test_a_size_that_cannot_train_the_model_is_refused(workbench: Bench, size: str, says: str) -> None:
    settings = with_size(with_base(workbench.settings, source="registry"), size)
    base = preflight.find_base_model(workbench.session, settings)

    with pytest.raises(PreconditionError, match=says):
        preflight.check_compute(workbench.session, settings, base=base)


@pytest.mark.parametrize(
    ("size", "says"), [("Standard_Nothing_v1", "does not offer"), ("Standard_DS3_v2", "has no GPU")]
)
def test_a_size_without_an_allow_list_must_be_offered_and_have_gpus(workbench: Bench, size: str, says: str) -> None:
    with pytest.raises(PreconditionError, match=says):
        preflight.check_compute(workbench.session, with_size(workbench.settings, size), base=None)


def test_missing_quota_is_a_precondition_and_nothing_is_made(bench: Bench) -> None:
    with pytest.raises(PreconditionError, match=r"[Qq]uota") as caught:
        deploy(bench.session, bench.settings, bench.model("1", QUESTIONS), test_rows=bench.rows)

    assert "quota" in (caught.value.hint or "")
    assert endpoints.get(bench.session, bench.settings.endpoint.name) is None


def test_a_name_that_somebody_has_is_a_precondition(bench: Bench) -> None:
    taken = bench.settings.endpoint.model_copy(update={"name": "somebodys"})
    small = bench.settings.deployment.model_copy(update={"instance_type": "Standard_DS3_v2"})
    settings = bench.settings.model_copy(update={"endpoint": taken, "deployment": small})

    with pytest.raises(PreconditionError, match="already an endpoint with this name"):
        deploy(bench.session, settings, bench.model("1", QUESTIONS), test_rows=bench.rows)
