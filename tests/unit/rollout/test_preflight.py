"""Cores, probes and durations: the formulas, and what they never do."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlops.config.settings import Settings, load
from mlops.core.resources import Deployment, Usage, VmSize
from mlops.machines import quota
from mlops.machines.probes import LOAD_BYTES_PER_S, probes, server_variables
from mlops.rollout import preflight
from mlops.rollout.estimate import estimate_duration, format_seconds
from mlops.rollout.preflight import Preflight
from tests.support.checkout import ROOT

SETTINGS = load("production", ROOT / "mlops.yaml")
A100 = VmSize(name="STANDARD_NC24ADS_A100_V4", family="standardNCADSA100v4Family", cores=24, gpus=1, memory_gb=220)
PLAIN = VmSize(name="Standard_DS3_v2", family="standardDSv2Family", cores=4, gpus=0, memory_gb=14)
PHI3 = 7_642_000_000


def with_deployment(**values: object) -> Settings:
    return SETTINGS.model_copy(update={"deployment": SETTINGS.deployment.model_copy(update=values)})


@pytest.mark.parametrize(
    ("size", "instances", "cores", "reserved"),
    [(PLAIN, 1, 8, 4), (PLAIN, 5, 24, 4), (PLAIN, 6, 32, 8), (PLAIN, 10, 48, 8), (A100, 1, 24, 0), (A100, 3, 72, 0)],
)
def test_cores_with_the_fifth_that_azure_keeps_free(size: VmSize, instances: int, cores: int, reserved: int) -> None:
    settings = with_deployment(instance_count=instances)
    needs = preflight.serving_needs(settings, size, second_slot=True)

    assert (needs.cores, needs.reserved, needs.family) == (cores, reserved, size.family)
    assert preflight.serving_needs(settings, size, second_slot=False).cores == 0


@given(instances=st.integers(1, 50))
def test_the_fifth_is_rounded_up(instances: int) -> None:
    counted = quota.deployment_needs(PLAIN, instances).cores // PLAIN.cores
    assert counted * 10 >= 12 * instances > (counted - 1) * 10


@pytest.mark.parametrize(
    ("family", "row"),
    [
        ("standardDSv2Family", "Standard DSv2 Family Cluster Dedicated vCPUs"),
        ("standard NCASv3_T4 Family", "Standard NCASv3_T4 Family Cluster Dedicated vCPUs"),
        ("standardNCADSA100v4Family", "Standard NCADSA100v4 Family Cluster Dedicated vCPUs"),
        ("standardNCADSH100v5Family", "Standard NCadsH100v5 Family Cluster Dedicated vCPUs"),
        ("standardNDASv4_A100Family", "standardNDASv4_A100Family"),
    ],
)
def test_a_familys_row_is_found_under_its_other_name(family: str, row: str) -> None:
    rows = [
        Usage(family="Total Cluster Dedicated Regional vCPUs", used=1, limit=10),
        Usage(family="Standard DSv3 Family Cluster Dedicated vCPUs", used=2, limit=10),
        Usage(family=row, used=3, limit=10),
    ]
    found = quota.of_family(rows, family)
    total = quota.regional_total(rows)
    assert found is not None
    assert total is not None
    assert (found.used, total.used) == (3, 1)
    assert quota.of_family(rows, "standardNDv5H100Family") is None


def test_a_slot_keeps_its_cores_only_on_the_same_machines() -> None:
    slot = Deployment(
        name="blue",
        endpoint="e",
        state="Succeeded",
        model="m",
        model_version="1",
        instance_type="STANDARD_NC24ADS_A100_V4",
    )
    assert preflight.keeps_cores(slot, SETTINGS)
    assert not preflight.keeps_cores(None, SETTINGS)
    assert not preflight.keeps_cores(replace(slot, state="Failed"), SETTINGS)
    assert not preflight.keeps_cores(slot, with_deployment(instance_count=2))
    assert not preflight.keeps_cores(slot, with_deployment(instance_type="Standard_DS3_v2"))

    offered = (A100, PLAIN)
    assert preflight.reusable_cores(slot, A100.family, offered) == 24
    assert preflight.reusable_cores(replace(slot, state="Failed", instance_count=2), A100.family, offered) == 48
    assert preflight.reusable_cores(slot, PLAIN.family, offered) == 0
    assert preflight.reusable_cores(replace(slot, instance_type="gone"), A100.family, offered) == 0
    assert preflight.reusable_cores(None, A100.family, offered) == 0


def test_probes_by_size() -> None:
    small, phi, unknown = probes(4_000_000), probes(PHI3), probes(None)
    assert small.liveness.initial_delay_s == 10
    assert phi.liveness.initial_delay_s == math.ceil(PHI3 / LOAD_BYTES_PER_S) == 153
    assert unknown.liveness.initial_delay_s == 600
    assert probes(PHI3, initial_delay_s=42, warm_up_s=300).liveness.initial_delay_s == 42
    assert probes(PHI3, warm_up_s=300).liveness.initial_delay_s == 453
    assert server_variables(small) == {}
    assert server_variables(phi) == {"WORKER_TIMEOUT": "460"}


@given(size=st.none() | st.integers(0, 10**12), delay=st.none() | st.integers(1, 10_000))
def test_readiness_asks_early_and_gives_up_no_sooner_than_liveness(size: int | None, delay: int | None) -> None:
    made = probes(size, initial_delay_s=delay)

    assert made.liveness.initial_delay_s >= 1
    assert made.readiness.initial_delay_s == 10
    assert made.readiness.patience_s >= made.liveness.patience_s
    assert made.readiness.patience_s - made.liveness.patience_s < made.readiness.period_s + 10
    if size is not None and delay is None:
        assert made.liveness.patience_s - 300 >= max(10, size / LOAD_BYTES_PER_S)


@given(small=st.integers(0, 10**12), more=st.integers(0, 10**12))
def test_a_larger_model_is_given_no_less_time(small: int, more: int) -> None:
    first, second = probes(small), probes(small + more)
    assert second.liveness.patience_s >= first.liveness.patience_s
    assert estimate_duration(SETTINGS, small + more, (100,)).total >= estimate_duration(SETTINGS, small, (100,)).total


def test_how_long_is_the_sum_of_parts_that_are_shown() -> None:
    found = estimate_duration(SETTINGS, PHI3, (10, 50, 100))
    parts = dict(found.parts)

    assert parts == {
        "machine": 240,
        "image and model": 320,
        "load": pytest.approx(462.84),
        "gate": pytest.approx(65),
        "traffic": 120,
        "soak": 180,
    }
    assert found.total.total_seconds() == pytest.approx(1387.84)
    assert found.text() == (
        "about 23 min on Azure: machine 4 min + image and model 5 min + load 8 min + gate 65 s + traffic 2 min + soak "
        "3 min"
    )
    more = dict(estimate_duration(SETTINGS, None, (100,), creates_endpoint=True, mirror=True).parts)
    assert (more["endpoint"], more["traffic"], more["soak"], more["load"]) == (95, 120, 120, 310)
    skipped = dict(estimate_duration(SETTINGS, PHI3, (100,), skips_gate=True).parts)
    assert set(parts) - set(skipped) == {"gate", "soak"}
    assert [format_seconds(value) for value in (0, 89.4, 100, 5399, 9000)] == [
        "0 s",
        "89 s",
        "2 min",
        "90 min",
        "2.5 h",
    ]


def test_what_a_dry_run_prints() -> None:
    found = Preflight(
        size="Standard_DS3_v2",
        instances=2,
        needs=quota.deployment_needs(PLAIN, 2),
        used=60,
        limit=100,
        server=SETTINGS.deployment.server,
        model_bytes=PHI3,
        probes=probes(PHI3),
        duration=estimate_duration(SETTINGS, PHI3, (100,)),
    )
    lines = found.lines()
    assert lines[0] == (
        "quota: 12 vCPUs of standardDSv2Family for 2 × Standard_DS3_v2, 4 of them kept free for upgrades; 40 of 100 "
        "are free"
    )
    assert lines[1] == ("server: vLLM, 64 requests at a time (environments/serve/engine/environment.yml)")
    assert lines[2] == "probes: model 7.64 GB; liveness is asked from second 153 on, readiness given up at second 460"
    assert lines[3].startswith("time: about ")
    assert found.needs is not None
    kept = replace(found, needs=replace(found.needs, cores=0), model_bytes=None)
    assert kept.lines()[0] == "quota: the slot keeps its 2 × Standard_DS3_v2"
    assert "size not known" in kept.lines()[2]
    assert "not known" in replace(found, used=None, limit=None).lines()[0]
    assert "need is not known" in replace(found, needs=None).lines()[0]
    assert "no limit" in replace(found, limit=None).lines()[0]
