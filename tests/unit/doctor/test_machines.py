"""Cores for a training beside two slots, in a subscription that has few; and what `mlops train` says of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from mlops.core.errors import PreconditionError
from mlops.core.resources import Cluster, Usage, VmSize
from mlops.doctor import Mark
from mlops.doctor.machines import Cores, cluster_finding, enough, judged
from mlops.machines import quota
from mlops.training import preflight
from tests.support.checkout import ROOT
from tests.unit.doctor.conftest import Examine, as_staging, only, settings_of

FAMILY = "standardNCADSA100v4Family"
A100 = VmSize(name="Standard_NC24ads_A100_v4", family=FAMILY, cores=24, gpus=1, memory_gb=220)
PLAIN = VmSize(name="Standard_DS3_v2", family="standardDSv2Family", cores=4, gpus=0, memory_gb=14)


def rows(limit: int, used: int = 0, *, low: int = 0, total: int | None = None) -> list[Usage]:
    return [
        Usage(family="Total Cluster Dedicated Regional vCPUs", used=used, limit=total),
        Usage(family="Total Cluster LowPriority Regional vCPUs", used=0, limit=low),
        Usage(family="Standard NCADSA100v4 Family Cluster Dedicated vCPUs", used=used, limit=limit),
    ]


def cores(serving: VmSize = A100, *, reserved: int = 0, low_priority: bool = False) -> Cores:
    return Cores(
        training=A100,
        nodes=1,
        serving=serving,
        instances=1,
        low_priority=low_priority,
        own={FAMILY: reserved},
    )


def cluster(state: str = "Succeeded", *, tier: str = "dedicated", max_nodes: int = 1) -> Cluster:
    return Cluster(name="c", size=A100.name, state=state, tier=tier, min_nodes=0, max_nodes=max_nodes)


@pytest.mark.parametrize("state", ["Deleting", "Canceled", "Creating"])
def test_a_cluster_that_takes_no_job_at_this_moment_is_not_well(state: str) -> None:
    compute = settings_of(compute={"size": cluster().size}).compute
    finding = cluster_finding(cluster(state), compute)

    assert finding.mark is Mark.DOUBTFUL
    assert f"is '{state}'" in finding.what
    assert cluster_finding(cluster(), compute).mark is Mark.GOOD


@pytest.mark.parametrize(
    ("limit", "used", "reserved", "mark"),
    [
        (72, 0, 0, None),
        (71, 0, 0, Mark.DOUBTFUL),
        (48, 0, 0, Mark.DOUBTFUL),
        (47, 0, 0, Mark.BAD),
        (72, 48, 48, None),  # both slots are ours already
        (72, 48, 0, Mark.BAD),
        (72, 24, 0, Mark.DOUBTFUL),
    ],
)
def test_two_slots_must_fit_and_a_training_beside_them_should(
    limit: int, used: int, reserved: int, mark: Mark | None
) -> None:
    findings = judged(rows(limit, used), cores(reserved=reserved))

    assert [each.mark for each in findings] == ([] if mark is None else [mark])
    if mark is not None:
        needed = 72 if mark is Mark.DOUBTFUL else 48
        assert f"{needed} vCPUs of" in findings[0].what
        assert f"a limit of {needed + used - reserved} vCPUs" in (findings[0].hint or "")


def test_azures_fifth_for_upgrades_counts_for_the_sizes_that_have_it() -> None:
    few = [Usage(family="Standard DSv2 Family Cluster Dedicated vCPUs", used=0, limit=15), *rows(24)]

    assert "16 vCPUs of" in judged(few, cores(PLAIN))[0].what  # two slots of 4 × ceil(1.2)
    assert enough([few[0], *rows(24)], cores(PLAIN)).what == (
        f"a training beside two slots takes 24 of 24 vCPUs of '{FAMILY}' and 16 of 15 vCPUs of 'standardDSv2Family'"
    )


def test_the_regions_total_counts_too_and_low_priority_is_counted_apart() -> None:
    assert "TotalClusterDedicated" in judged(rows(400, total=60), cores())[0].what.replace(" ", "")
    assert judged(rows(48), cores(low_priority=True)) == []


def test_a_training_waits_for_cores_or_never_begins() -> None:
    assert preflight.judge_training_quota(cluster(), A100, 1, rows(24), own=0) == ()
    assert preflight.judge_training_quota(cluster(), A100, 1, rows(24, 24), own=24) == ()
    (warning,) = preflight.judge_training_quota(cluster(), A100, 1, rows(24, 24), own=0)
    assert "24 of 24 vCPUs" in warning
    assert "the job waits until 24 are free" in warning
    with pytest.raises(PreconditionError, match="14 are missing") as caught:
        preflight.judge_training_quota(cluster(), A100, 1, rows(10, low=400), own=0)
    assert "compute.size" in (caught.value.hint or "")


def test_a_cluster_that_is_yet_to_be_made_may_be_low_priority() -> None:
    planned = cluster(preflight.NOT_THERE)

    (warning,) = preflight.judge_training_quota(planned, A100, 1, rows(10, low=24), own=0)
    assert warning.endswith("LowPriority is tried instead")
    with pytest.raises(PreconditionError, match="NCADSA100v4"):
        preflight.judge_training_quota(planned, A100, 1, rows(10, low=23), own=0)
    with pytest.raises(PreconditionError, match="LowPriority"):
        preflight.judge_training_quota(cluster(tier="low_priority"), A100, 1, rows(400, low=23), own=0)


def test_more_nodes_than_the_cluster_may_have() -> None:
    preflight.check_nodes(cluster(max_nodes=2), 2)
    with pytest.raises(PreconditionError, match=r"num_nodes_finetune is 3, .* at most 2"):
        preflight.check_nodes(cluster(max_nodes=2), 3)


def test_needs_of_one_family_add_up_and_an_unknown_family_is_not_judged() -> None:
    needs = quota.all_needs(A100, 2, PLAIN, 1)

    assert [each.cores for each in needs] == [48, 8, 8]
    assert quota.shortages(rows(48), needs) == []
    (short,) = quota.shortages(rows(40), needs)
    assert (short.missing, short.enough, short.setting) == (8, 48, "compute.size")


# -- before a workspace --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def few() -> Iterator[None]:
    """Before the workspace starts: 48 cores of A100 machines."""
    os.environ["MLOPS_LOCAL_QUOTAS"] = json.dumps({FAMILY: 48})
    yield
    os.environ.pop("MLOPS_LOCAL_QUOTAS", None)


@pytest.mark.slow
@pytest.mark.usefixtures("few", "home")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_doctor_and_train_say_the_same_of_a_short_quota(examine: Examine) -> None:
    together = only(examine(settings_of(), "quota"), "quota")
    assert together.mark is Mark.DOUBTFUL
    assert "72 vCPUs" in together.what
    assert "24 are missing" in together.what

    slots = examine(settings_of(deployment={"instance_type": "Standard_NC48ads_A100_v4"}), "quota")["quota"]
    assert [each.mark for each in slots] == [Mark.BAD]
    assert "for two slots" in slots[0].what

    large = {"size": "Standard_NC96ads_A100_v4", "name": "large", "tier": "LowPriority"}
    assert examine(settings_of(compute=large), "quota")["quota"][0].mark is Mark.GOOD

    nodes = examine(settings_of(training={"parameters": {"num_nodes_finetune": 3}}), "quota")["quota"]
    message = nodes[0].what.removeprefix("for a training: ")
    assert nodes[0].mark is Mark.BAD
    command = [sys.executable, "-m", "mlops", "train", "--dry-run", "--set", "num_nodes_finetune=3", "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 3, done.stdout + done.stderr
    assert json.loads(done.stdout)["error"]["message"] == message


@pytest.mark.slow
@pytest.mark.usefixtures("few", "home")
def test_train_says_what_the_pipeline_does_not_take_before_anything_is_made() -> None:
    command = [sys.executable, "-m", "mlops", "train", "--detach", "--set", "lr_scheduler_type=cosin", "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    assert done.returncode == 2, done.stdout + done.stderr
    error = json.loads(done.stdout)["error"]
    assert error["message"] == "the parameter 'lr_scheduler_type' is 'cosin'"
    assert error["hint"].startswith("the pipeline takes linear, cosine")


@pytest.mark.slow
@pytest.mark.usefixtures("few", "home")
def test_the_command_ends_with_3_where_something_would_fail() -> None:
    environment = {**os.environ, "COLUMNS": "80"}
    command = [sys.executable, "-m", "mlops", "doctor", "--only", "quota", "--only", "python"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [line.rstrip() for line in done.stdout.splitlines()]
    assert lines[0].startswith("✓  python")
    assert lines[1].startswith("!  quota")
    assert max(map(len, lines)) <= 80
    assert done.stderr == ""

    gone = {**environment, "MLOPS_SETTINGS": str(ROOT / "nothing.yaml")}
    done = subprocess.run([*command, "--json"], cwd=ROOT, capture_output=True, text=True, check=False, env=gone)
    assert done.returncode == 3
    findings = {each["check"]: each for each in json.loads(done.stdout)["findings"]}
    assert "does not exist" in findings["settings"]["what"]
    assert findings["quota"]["what"] == "not looked at: no settings"


@pytest.mark.slow
@pytest.mark.usefixtures("few", "home")
def test_a_workspace_whose_server_is_gone_is_a_finding(examine: Examine, monkeypatch: pytest.MonkeyPatch) -> None:
    as_staging(monkeypatch, AZURE_TOKEN_CREDENTIALS="EnvironmentCredential")
    subprocess.run([sys.executable, "-m", "mlops", "local", "stop"], cwd=ROOT, check=True, capture_output=True)

    findings = examine(settings_of("staging"), "login", "quota")

    assert only(findings, "login").mark is Mark.BAD
    assert only(findings, "quota").what == "not looked at: no login"
