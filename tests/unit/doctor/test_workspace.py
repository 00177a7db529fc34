"""The doctor before a local workspace that stands: all is well at first, then one thing after the other is not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mlops.config.settings import load
from mlops.core.console import Console
from mlops.doctor import CHECKS, Mark
from tests.support.checkout import ROOT
from tests.unit.doctor.conftest import Examine, as_staging, marks, only, settings_of

pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("home"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # the SDK's own
]


@pytest.fixture
def faults(session: object) -> Iterator[Any]:
    """Add fault rules to the workspace that the session has started; they end with the test."""
    from mlops.local.daemon import client

    def add(**rule: Any) -> None:
        client.request("faults", method="POST", body={"times": None, **rule})

    yield add
    client.request("faults", method="DELETE")


@pytest.fixture
def session(home: Path) -> Any:
    from mlops.azure.session import connect

    return connect(load("local", ROOT / "mlops.yaml"), Console(quiet=True))


# -- all is well -------------------------------------------------------------------------------------------------------


def test_everything_is_well_in_a_fresh_local_workspace(examine: Examine) -> None:
    findings = examine(settings_of())

    assert list(findings) == [check.name for check in CHECKS if not check.quiet]
    expected = dict.fromkeys(findings, Mark.GOOD) | {"github": Mark.SKIPPED}
    if marks(findings)["packages"] is Mark.DOUBTFUL:  # somebody tries another version here
        expected["packages"] = Mark.DOUBTFUL
    assert marks(findings) == expected, [each for several in findings.values() for each in several]
    assert only(findings, "rights").what.startswith("Owner on the subscription")
    assert "72 of " in only(findings, "quota").what


def test_checks_are_under_way_at_the_same_time(examine: Examine, faults: Any) -> None:
    """Counted in the requests' own times, not by the clock of a machine that others share."""
    from mlops.local.daemon import client

    faults(kind="slow", delay_s=1.0, match={"host": "management|api.azureml"})
    client.request("requests", method="POST", body={"record": True})
    try:
        examine(settings_of())
        entries = [entry for entry in client.request("requests") if entry["elapsed_ms"] >= 900]
    finally:
        client.request("requests", method="POST", body={"record": False})

    spans = [(entry["at"], entry["at"] + entry["elapsed_ms"] / 1000) for entry in entries]
    together = max(sum(start <= moment < end for start, end in spans) for moment, _ in spans)
    assert len(spans) >= 10
    assert together >= 2, spans  # one after another would be 1; seen: 4 (at a load of 15 on two cores) and 5


# -- login, subscription, workspace ------------------------------------------------------------------------------------


def test_a_login_that_is_refused_leaves_nothing_to_look_at(examine: Examine, monkeypatch: pytest.MonkeyPatch) -> None:
    as_staging(monkeypatch, AZURE_CLIENT_SECRET="wrong", AZURE_TOKEN_CREDENTIALS="EnvironmentCredential")

    findings = examine(settings_of("staging"))

    assert only(findings, "login").mark is Mark.BAD
    assert "az login" in (only(findings, "login").hint or "")
    assert only(findings, "quota").what == "not looked at: no login"
    assert marks(findings)["python"] is Mark.GOOD


def test_a_login_without_a_workspace_named_says_what_to_set(examine: Examine, monkeypatch: pytest.MonkeyPatch) -> None:
    as_staging(monkeypatch, AZUREML_WORKSPACE_NAME="")

    findings = examine(settings_of("staging"), "workspace")

    assert "AZUREML_WORKSPACE_NAME is not set" in only(findings, "login").what


def test_a_subscription_that_this_login_does_not_see(examine: Examine, monkeypatch: pytest.MonkeyPatch) -> None:
    as_staging(monkeypatch, AZURE_SUBSCRIPTION_ID="11111111-1111-1111-1111-111111111111")

    findings = examine(settings_of("staging"))

    assert only(findings, "subscription").mark is Mark.BAD
    assert "11111111-1111" in only(findings, "subscription").what
    assert only(findings, "workspace").what == "not looked at: no subscription"


def test_a_workspace_that_is_not_there(examine: Examine, monkeypatch: pytest.MonkeyPatch) -> None:
    as_staging(monkeypatch, AZUREML_WORKSPACE_NAME="nowhere")

    findings = examine(settings_of("staging"))

    assert "there is no workspace 'nowhere' in the resource group 'local'" in only(findings, "workspace").what
    assert "mlops setup --target staging" in (only(findings, "workspace").hint or "")
    assert only(findings, "endpoint").what == "not looked at: no workspace"


def test_a_workspace_that_does_not_answer_is_given_up(examine: Examine, faults: Any) -> None:
    faults(kind="hang", delay_s=30, match={"path": "/workspaces/local$"})

    findings = examine(settings_of(), limits={"workspace": 1.0})

    assert only(findings, "workspace").what == "no answer within 1 s"
    assert only(findings, "cluster").what == "not looked at: no workspace"
    assert only(findings, "registry").mark is Mark.GOOD


# -- models and the pipeline -------------------------------------------------------------------------------------------


def test_a_registry_that_cannot_be_reached(examine: Examine, faults: Any) -> None:
    faults(kind="status", status=403, match={"path": "/discovery$"})

    findings = examine(settings_of(), "registry", "pipeline")

    assert only(findings, "registry").mark is Mark.BAD
    assert "azureml" in only(findings, "registry").what
    assert only(findings, "pipeline").mark is Mark.BAD


def test_a_retired_base_model_is_told_with_its_date_and_what_to_use(
    examine: Examine, monkeypatch: pytest.MonkeyPatch
) -> None:
    as_staging(monkeypatch)

    findings = examine(settings_of("staging", base_model={"source": "registry"}), "base-model", "training-size")

    assert only(findings, "base-model").mark is Mark.BAD
    assert "2025-08-30" in only(findings, "base-model").what
    assert "huggingface" in (only(findings, "base-model").hint or "")
    assert "on the finetune allow-list" in only(findings, "training-size").what  # it is there, so its list is read


def test_a_base_model_that_the_registry_has_not(examine: Examine) -> None:
    findings = examine(settings_of(base_model={"source": "registry", "name": "Phi-99"}), "base-model")

    assert "has no model 'Phi-99'" in only(findings, "base-model").what


@pytest.mark.parametrize(
    ("training", "says", "hint"),
    [
        ({"component_version": "9.9.9"}, "'chat_completion_pipeline', version '9.9.9'", "component_version"),
        ({"parameters": {"learning_rat": 1}}, "has no parameter 'learning_rat'", "did you mean 'learning_rate'?"),
        ({"parameters": {"lr_scheduler_type": "cosin"}}, "'lr_scheduler_type' is 'cosin'", "takes linear, cosine"),
        ({"parameters": {"num_train_epochs": 0}}, "'num_train_epochs' is '0'", "takes 1 and more"),
        ({"parameters": {"lora_r": "many"}}, "'lora_r' is 'many'", "takes a number"),
        ({"pipeline": "components", "parameters": {"optim": "sgd"}}, "'optim' is 'sgd'", "adamw_torch, adafactor"),
    ],
)
def test_a_pipeline_that_does_not_take_what_it_is_given(
    examine: Examine, training: dict[str, Any], says: str, hint: str
) -> None:
    findings = examine(settings_of(training=training), "pipeline")

    assert only(findings, "pipeline").mark is Mark.BAD
    assert says in only(findings, "pipeline").what
    assert hint in (only(findings, "pipeline").hint or "")


# -- machines ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "source", "says"),
    [
        ("Standard_NC6s_v3", "huggingface", "was retired on 2025-09-30"),
        ("Standard_Nothing_v1", "huggingface", "does not offer"),
        ("Standard_DS3_v2", "huggingface", "has no GPU"),
        ("Standard_NC4as_T4_v3", "registry", "finetune allow-list"),
    ],
)
def test_a_size_that_cannot_train(examine: Examine, size: str, source: str, says: str) -> None:
    settings = settings_of(compute={"size": size, "name": "another"}, base_model={"source": source})

    findings = examine(settings, "training-size", "quota")

    assert only(findings, "training-size").mark is Mark.BAD
    assert says in only(findings, "training-size").what
    assert only(findings, "quota").what == "not looked at: no size to train on"


@pytest.mark.parametrize(
    ("size", "source", "says"),
    [
        ("Standard_NC6s_v3", "huggingface", "was retired on 2025-09-30"),
        ("Standard_Nothing_v1", "huggingface", "does not offer"),
        ("Standard_DS3_v2", "registry", "inference allow-list"),
    ],
)
def test_a_size_that_cannot_serve(examine: Examine, size: str, source: str, says: str) -> None:
    settings = settings_of(deployment={"instance_type": size}, base_model={"source": source})

    findings = examine(settings, "serving-size")

    assert only(findings, "serving-size").mark is Mark.BAD
    assert says in only(findings, "serving-size").what


@pytest.mark.parametrize(
    ("size", "server"),
    [("Standard_NC24ads_A100_v4", "vLLM"), ("Standard_DS3_v2", "azureml-inference-server-http")],
)
def test_the_server_of_a_slot_is_told(examine: Examine, size: str, server: str) -> None:
    settings = settings_of(deployment={"instance_type": size, "environment": None})
    findings = only(examine(settings, "serving-size"), "serving-size")
    assert (findings.mark, findings.what.rpartition("; ")[2]) == (Mark.GOOD, f"served by {server}")


def test_a_login_that_may_not_list_sizes_or_quota_is_only_told(examine: Examine, faults: Any) -> None:
    faults(kind="status", status=403, match={"path": "/(vmSizes|usages)$"})

    findings = examine(settings_of())

    assert marks(findings)["region"] is Mark.DOUBTFUL
    assert "whether the region offers it is not known" in only(findings, "serving-size").what
    assert marks(findings)["quota"] is Mark.SKIPPED


def test_quota_that_cannot_be_read_is_doubtful(examine: Examine, faults: Any) -> None:
    faults(kind="status", status=403, match={"path": "/usages$"})

    findings = examine(settings_of(), "quota")

    assert marks(findings)["quota"] is Mark.DOUBTFUL
    assert "is not known" in only(findings, "quota").what


def test_a_cluster_as_it_stands(examine: Examine, session: Any, faults: Any) -> None:
    from mlops.azure import computes

    settings = settings_of(compute={"name": "standing", "min_nodes": 1})
    computes.create(session, settings.compute)

    assert "'standing' is 'Succeeded'" in only(examine(settings, "cluster"), "cluster").what
    paid = only(examine(settings_of(compute={"name": "standing"}), "cluster"), "cluster")
    assert (paid.mark, "stay and are paid for" in (paid.hint or "")) == (Mark.DOUBTFUL, True)
    other = settings_of(compute={"name": "standing", "min_nodes": 1, "size": "Standard_NC48ads_A100_v4"})
    differs = only(examine(other, "cluster"), "cluster")
    assert (differs.mark, "NC48ads" in (differs.hint or "")) == (Mark.DOUBTFUL, True)


def test_a_cluster_that_failed(examine: Examine, session: Any, faults: Any) -> None:
    from mlops.azure import computes
    from mlops.core.errors import MlopsError

    settings = settings_of(compute={"name": "broken"})
    faults(kind="operation", code="InternalServerError", message="no machine", match={"resource": "broken"})
    with pytest.raises(MlopsError):
        computes.create(session, settings.compute)

    findings = examine(settings, "cluster", "training-size")

    assert only(findings, "cluster").mark is Mark.BAD
    assert "'broken' is in the state 'Failed'" in only(findings, "cluster").what
    assert only(findings, "training-size").what == "not looked at: no cluster that takes jobs"


# -- the endpoint ------------------------------------------------------------------------------------------------------


def test_a_name_that_somebody_has(examine: Examine, faults: Any) -> None:
    faults(kind="status", status=401, match={"host": r"somebodys\..*inference"})

    findings = only(examine(settings_of(endpoint={"name": "somebodys"}), "endpoint"), "endpoint")

    assert (findings.mark, findings.what) == (
        Mark.DOUBTFUL,
        "'somebodys' answers already, in another workspace of the region",
    )
    assert "endpoint.name" in (findings.hint or "")


def test_an_endpoint_that_is_ours_somebody_elses_or_failed(examine: Examine, session: Any, faults: Any) -> None:
    from azure.ai.ml.entities import ManagedOnlineEndpoint
    from azure.core.exceptions import HttpResponseError

    from mlops.azure import endpoints
    from mlops.core.resources import MANAGED_BY, MANAGED_TAG

    def finding_of(name: str) -> Any:
        return only(examine(settings_of(endpoint={"name": name}), "endpoint"), "endpoint")

    endpoints.create(session, "ours", description="", tags={MANAGED_TAG: MANAGED_BY})
    assert (finding_of("ours").mark, finding_of("ours").what) == (Mark.GOOD, "'ours' is ours: Succeeded, no traffic")
    endpoints.create(session, "theirs", description="", tags={})
    assert finding_of("theirs").mark is Mark.DOUBTFUL
    assert "made by somebody else" in finding_of("theirs").what
    faults(kind="operation", code="InternalServerError", message="no", match={"resource": "ill-fated"})
    endpoint = ManagedOnlineEndpoint(name="ill-fated", auth_mode="key", tags={MANAGED_TAG: MANAGED_BY})
    with pytest.raises(HttpResponseError):
        session.ml.online_endpoints.begin_create_or_update(endpoint).result()
    assert "mends it" in (finding_of("ill-fated").hint or "")


# -- what may be done --------------------------------------------------------------------------------------------------


def test_an_identity_that_is_not_there_lacks_roles_or_has_too_many(examine: Examine, session: Any) -> None:
    from mlops.azure import identities, management, roles
    from mlops.core.errors import PreconditionError
    from mlops.rollout import identity

    group = f"{management.subscription_id(session)}/resourceGroups/{session.ml.resource_group_name}"
    settings = settings_of(deployment={"identity": "serving"})
    absent = only(examine(settings, "identity"), "identity")
    assert "there is no identity 'serving'" in absent.what
    with pytest.raises(PreconditionError) as caught:  # what a deploy says before it makes an endpoint
        identity.check_before(session, settings)
    assert (caught.value.message, caught.value.hint) == (absent.what, absent.hint)

    serving = identities.create(session, "serving", session.ml.resource_group_name, region="eastus", tags={})
    lacking = only(examine(settings, "identity"), "identity")
    assert lacking.mark is Mark.BAD
    assert "lacks Storage Blob Data Reader on storageAccounts" in lacking.what
    assert "AcrPull on registries" in lacking.what

    workspace = management.get(
        session, f"{group}/providers/Microsoft.MachineLearningServices/workspaces/local", "2024-10-01"
    )
    assert workspace is not None
    below = workspace["properties"]
    roles.assign(session, serving.principal_id, "Storage Blob Data Reader", below["storageAccount"])
    roles.assign(session, serving.principal_id, "AcrPull", below["containerRegistry"])
    assert only(examine(settings, "identity"), "identity").mark is Mark.GOOD

    roles.assign(session, serving.principal_id, "Contributor", group)
    too_much = only(examine(settings, "identity"), "identity")
    assert (too_much.mark, too_much.what) == (
        Mark.DOUBTFUL,
        "the endpoint's identity has more than it needs: Contributor on the resource group",
    )
    assert identity.check_before(session, settings) == (too_much.what,)


@pytest.mark.parametrize("roles_given", [("Reader",), ("Contributor",), ("Owner", "Storage Blob Data Contributor")])
def test_what_githubs_login_may_do(
    examine: Examine, session: Any, roles_given: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a job on GitHub, logged in as an identity with these roles."""
    from mlops.azure import identities, management, roles
    from tests.support.github_job import github_job

    group = f"{management.subscription_id(session)}/resourceGroups/{session.ml.resource_group_name}"
    name = "-".join(roles_given).lower().replace(" ", "")
    subject = f"repo:acme@1/chat@2:environment:{name}"
    identity = identities.create(session, name, session.ml.resource_group_name, region="eastus", tags={})
    identities.trust(session, name, session.ml.resource_group_name, credential="github", subject=subject)
    for role in roles_given:
        roles.assign(session, identity.principal_id, role, group)
    as_staging(monkeypatch, AZURE_CLIENT_ID=identity.client_id, GITHUB_ACTIONS="true", **github_job(subject))
    monkeypatch.delenv("AZURE_CLIENT_SECRET")

    findings = examine(settings_of("staging"), "login", "rights")

    assert identity.client_id in only(findings, "login").what
    lines = [(each.mark, each.what) for each in findings["rights"]]
    blobs = (Mark.BAD, "this login may not read blobs or write blobs of the storage account 'mlopslocal'")
    if "Reader" in roles_given:
        assert lines[0][0] is Mark.BAD
        assert lines[0][1].startswith("this login may not submit jobs, create the cluster")
        assert lines[1] == blobs
    elif "Contributor" in roles_given:
        assert lines == [blobs]
    else:
        assert lines == [(Mark.DOUBTFUL, "this login may give roles to others, which no workflow needs")]
