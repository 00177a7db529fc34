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
from tests.unit.doctor.conftest import Look, as_staging, marks, only, settings_of

pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("home"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # the SDK's own
]


@pytest.fixture
def faults() -> Iterator[Any]:
    """Add fault rules; they end with the test."""
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


def test_everything_is_well_in_a_fresh_local_workspace(look: Look) -> None:
    found = look(settings_of())

    assert list(found) == [check.name for check in CHECKS if not check.quiet]
    expected = dict.fromkeys(found, Mark.GOOD) | {"github": Mark.SKIPPED}
    if marks(found)["packages"] is Mark.DOUBTFUL:  # somebody tries another version here
        expected["packages"] = Mark.DOUBTFUL
    assert marks(found) == expected, [each for several in found.values() for each in several]
    assert only(found, "rights").what.startswith("Owner on the subscription")
    assert "72 of " in only(found, "quota").what


def test_checks_are_under_way_at_the_same_time(look: Look, faults: Any) -> None:
    """Counted in the requests' own times, not by the clock of a machine that others share."""
    from mlops.local.daemon import client

    faults(kind="slow", delay_s=1.0, match={"host": "management|api.azureml"})
    client.request("requests", method="POST", body={"record": True})
    try:
        look(settings_of())
        seen = [entry for entry in client.request("requests") if entry["elapsed_ms"] >= 900]
    finally:
        client.request("requests", method="POST", body={"record": False})

    spans = [(entry["at"], entry["at"] + entry["elapsed_ms"] / 1000) for entry in seen]
    together = max(sum(begin <= moment < end for begin, end in spans) for moment, _ in spans)
    assert len(spans) >= 10
    assert together >= 5, spans


# -- login, subscription, workspace ------------------------------------------------------------------------------------


def test_a_login_that_is_refused_leaves_nothing_to_look_at(look: Look, monkeypatch: pytest.MonkeyPatch) -> None:
    as_staging(monkeypatch, AZURE_CLIENT_SECRET="wrong", AZURE_TOKEN_CREDENTIALS="EnvironmentCredential")

    found = look(settings_of("staging"))

    assert only(found, "login").mark is Mark.BAD
    assert "az login" in (only(found, "login").hint or "")
    assert only(found, "quota").what == "not looked at: no login"
    assert marks(found)["python"] is Mark.GOOD


def test_a_login_without_a_workspace_named_says_what_to_set(look: Look, monkeypatch: pytest.MonkeyPatch) -> None:
    as_staging(monkeypatch, AZUREML_WORKSPACE_NAME="")

    found = look(settings_of("staging"), "workspace")

    assert "AZUREML_WORKSPACE_NAME is not set" in only(found, "login").what


def test_a_subscription_that_this_login_does_not_see(look: Look, monkeypatch: pytest.MonkeyPatch) -> None:
    as_staging(monkeypatch, AZURE_SUBSCRIPTION_ID="11111111-1111-1111-1111-111111111111")

    found = look(settings_of("staging"))

    assert only(found, "subscription").mark is Mark.BAD
    assert "11111111-1111" in only(found, "subscription").what
    assert only(found, "workspace").what == "not looked at: no subscription"


def test_a_workspace_that_is_not_there(look: Look, monkeypatch: pytest.MonkeyPatch) -> None:
    as_staging(monkeypatch, AZUREML_WORKSPACE_NAME="nowhere")

    found = look(settings_of("staging"))

    assert "there is no workspace 'nowhere' in the resource group 'local'" in only(found, "workspace").what
    assert "mlops setup -t staging" in (only(found, "workspace").hint or "")
    assert only(found, "endpoint").what == "not looked at: no workspace"


def test_a_workspace_that_does_not_answer_is_given_up(look: Look, faults: Any) -> None:
    faults(kind="hang", delay_s=30, match={"path": "/workspaces/local$"})

    found = look(settings_of(), limits={"workspace": 1.0})

    assert only(found, "workspace").what == "no answer within 1 s"
    assert only(found, "cluster").what == "not looked at: no workspace"
    assert only(found, "registry").mark is Mark.GOOD


# -- models and the pipeline -------------------------------------------------------------------------------------------


def test_a_registry_that_cannot_be_reached(look: Look, faults: Any) -> None:
    faults(kind="status", status=403, match={"path": "/discovery$"})

    found = look(settings_of(), "registry", "pipeline")

    assert only(found, "registry").mark is Mark.BAD
    assert "azureml" in only(found, "registry").what
    assert only(found, "pipeline").mark is Mark.BAD


def test_a_retired_base_model_is_told_with_its_date_and_what_to_use(
    look: Look, monkeypatch: pytest.MonkeyPatch
) -> None:
    as_staging(monkeypatch)

    found = look(settings_of("staging", base_model={"source": "registry"}), "base-model", "training-size")

    assert only(found, "base-model").mark is Mark.BAD
    assert "2025-08-30" in only(found, "base-model").what
    assert "huggingface" in (only(found, "base-model").hint or "")
    assert "on the finetune allow-list" in only(found, "training-size").what  # it is there, so its list is read


def test_a_base_model_that_the_registry_has_not(look: Look) -> None:
    found = look(settings_of(base_model={"source": "registry", "name": "Phi-99"}), "base-model")

    assert "has no model 'Phi-99'" in only(found, "base-model").what


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
    look: Look, training: dict[str, Any], says: str, hint: str
) -> None:
    found = look(settings_of(training=training), "pipeline")

    assert only(found, "pipeline").mark is Mark.BAD
    assert says in only(found, "pipeline").what
    assert hint in (only(found, "pipeline").hint or "")


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
def test_a_size_that_cannot_train(look: Look, size: str, source: str, says: str) -> None:
    settings = settings_of(compute={"size": size, "name": "another"}, base_model={"source": source})

    found = look(settings, "training-size", "quota")

    assert only(found, "training-size").mark is Mark.BAD
    assert says in only(found, "training-size").what
    assert only(found, "quota").what == "not looked at: no size to train on"


@pytest.mark.parametrize(
    ("size", "source", "says"),
    [
        ("Standard_NC6s_v3", "huggingface", "was retired on 2025-09-30"),
        ("Standard_Nothing_v1", "huggingface", "does not offer"),
        ("Standard_DS3_v2", "registry", "inference allow-list"),
    ],
)
def test_a_size_that_cannot_serve(look: Look, size: str, source: str, says: str) -> None:
    settings = settings_of(deployment={"instance_type": size}, base_model={"source": source})

    found = look(settings, "serving-size")

    assert only(found, "serving-size").mark is Mark.BAD
    assert says in only(found, "serving-size").what


@pytest.mark.parametrize(
    ("size", "server"),
    [("Standard_NC24ads_A100_v4", "vLLM"), ("Standard_DS3_v2", "azureml-inference-server-http")],
)
def test_the_server_of_a_slot_is_told(look: Look, size: str, server: str) -> None:
    settings = settings_of(deployment={"instance_type": size, "environment": None})
    found = only(look(settings, "serving-size"), "serving-size")
    assert (found.mark, found.what.rpartition("; ")[2]) == (Mark.GOOD, f"served by {server}")


def test_a_login_that_may_not_list_sizes_or_quota_is_only_told(look: Look, faults: Any) -> None:
    faults(kind="status", status=403, match={"path": "/(vmSizes|usages)$"})

    found = look(settings_of())

    assert marks(found)["region"] is Mark.DOUBTFUL
    assert "whether the region offers it is not known" in only(found, "serving-size").what
    assert marks(found)["quota"] is Mark.SKIPPED


def test_quota_that_cannot_be_read_is_doubtful(look: Look, faults: Any) -> None:
    faults(kind="status", status=403, match={"path": "/usages$"})

    found = look(settings_of(), "quota")

    assert marks(found)["quota"] is Mark.DOUBTFUL
    assert "is not known" in only(found, "quota").what


def test_a_cluster_as_it_stands(look: Look, session: Any, faults: Any) -> None:
    from mlops.azure import computes

    wanted = settings_of(compute={"name": "standing", "min_nodes": 1})
    computes.create(session, wanted.compute)

    assert "'standing' is 'Succeeded'" in only(look(wanted, "cluster"), "cluster").what
    paid = only(look(settings_of(compute={"name": "standing"}), "cluster"), "cluster")
    assert (paid.mark, "stay and are paid for" in (paid.hint or "")) == (Mark.DOUBTFUL, True)
    other = settings_of(compute={"name": "standing", "min_nodes": 1, "size": "Standard_NC48ads_A100_v4"})
    differs = only(look(other, "cluster"), "cluster")
    assert (differs.mark, "NC48ads" in (differs.hint or "")) == (Mark.DOUBTFUL, True)


def test_a_cluster_that_failed(look: Look, session: Any, faults: Any) -> None:
    from mlops.azure import computes
    from mlops.core.errors import MlopsError

    wanted = settings_of(compute={"name": "broken"})
    faults(kind="operation", code="InternalServerError", message="no machine", match={"resource": "broken"})
    with pytest.raises(MlopsError):
        computes.create(session, wanted.compute)

    found = look(wanted, "cluster", "training-size")

    assert only(found, "cluster").mark is Mark.BAD
    assert "'broken' is in the state 'Failed'" in only(found, "cluster").what
    assert only(found, "training-size").what == "not looked at: no cluster that takes jobs"


# -- the endpoint ------------------------------------------------------------------------------------------------------


def test_a_name_that_somebody_has(look: Look, faults: Any) -> None:
    faults(kind="status", status=401, match={"host": r"somebodys\..*inference"})

    found = only(look(settings_of(endpoint={"name": "somebodys"}), "endpoint"), "endpoint")

    assert (found.mark, found.what) == (
        Mark.DOUBTFUL,
        "'somebodys' answers already, in another workspace of the region",
    )
    assert "endpoint.name" in (found.hint or "")


def test_an_endpoint_that_is_ours_somebody_elses_or_failed(look: Look, session: Any, faults: Any) -> None:
    from azure.ai.ml.entities import ManagedOnlineEndpoint
    from azure.core.exceptions import HttpResponseError

    from mlops.azure import endpoints
    from mlops.core.resources import MANAGED_BY, MANAGED_TAG

    def found_at(name: str) -> Any:
        return only(look(settings_of(endpoint={"name": name}), "endpoint"), "endpoint")

    endpoints.create(session, "ours", description="", tags={MANAGED_TAG: MANAGED_BY})
    assert (found_at("ours").mark, found_at("ours").what) == (Mark.GOOD, "'ours' is ours: Succeeded, no traffic")
    endpoints.create(session, "theirs", description="", tags={})
    assert found_at("theirs").mark is Mark.DOUBTFUL
    assert "made by somebody else" in found_at("theirs").what
    faults(kind="operation", code="InternalServerError", message="no", match={"resource": "ill-fated"})
    wanted = ManagedOnlineEndpoint(name="ill-fated", auth_mode="key", tags={MANAGED_TAG: MANAGED_BY})
    with pytest.raises(HttpResponseError):
        session.ml.online_endpoints.begin_create_or_update(wanted).result()
    assert "mends it" in (found_at("ill-fated").hint or "")


# -- what may be done --------------------------------------------------------------------------------------------------


def test_an_identity_that_is_not_there_lacks_roles_or_has_too_many(look: Look, session: Any) -> None:
    from mlops.azure import identities, management, roles
    from mlops.core.errors import PreconditionError
    from mlops.rollout import identity

    group = f"{management.subscription_id(session)}/resourceGroups/{session.ml.resource_group_name}"
    settings = settings_of(deployment={"identity": "serving"})
    absent = only(look(settings, "identity"), "identity")
    assert "there is no identity 'serving'" in absent.what
    with pytest.raises(PreconditionError) as caught:  # what a deploy says before it makes an endpoint
        identity.check_before(session, settings)
    assert (caught.value.message, caught.value.hint) == (absent.what, absent.hint)

    made = identities.create(session, "serving", session.ml.resource_group_name, region="eastus", tags={})
    lacking = only(look(settings, "identity"), "identity")
    assert lacking.mark is Mark.BAD
    assert "lacks Storage Blob Data Reader on storageAccounts" in lacking.what
    assert "AcrPull on registries" in lacking.what

    workspace = management.get(
        session, f"{group}/providers/Microsoft.MachineLearningServices/workspaces/local", "2024-10-01"
    )
    assert workspace is not None
    below = workspace["properties"]
    roles.assign(session, made.principal_id, "Storage Blob Data Reader", below["storageAccount"])
    roles.assign(session, made.principal_id, "AcrPull", below["containerRegistry"])
    assert only(look(settings, "identity"), "identity").mark is Mark.GOOD

    roles.assign(session, made.principal_id, "Contributor", group)
    too_much = only(look(settings, "identity"), "identity")
    assert (too_much.mark, too_much.what) == (
        Mark.DOUBTFUL,
        "the endpoint's identity has more than it needs: Contributor on the resource group",
    )
    assert identity.check_before(session, settings) == (too_much.what,)


@pytest.mark.parametrize("roles_given", [("Reader",), ("Contributor",), ("Owner", "Storage Blob Data Contributor")])
def test_what_githubs_login_may_do(
    look: Look, session: Any, roles_given: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a job on GitHub, logged in as an identity with these roles."""
    from mlops.azure import identities, management, roles
    from tests.support.github_job import github_job

    group = f"{management.subscription_id(session)}/resourceGroups/{session.ml.resource_group_name}"
    name = "-".join(roles_given).lower().replace(" ", "")
    subject = f"repo:acme@1/chat@2:environment:{name}"
    made = identities.create(session, name, session.ml.resource_group_name, region="eastus", tags={})
    identities.trust(session, name, session.ml.resource_group_name, credential="github", subject=subject)
    for role in roles_given:
        roles.assign(session, made.principal_id, role, group)
    as_staging(monkeypatch, AZURE_CLIENT_ID=made.client_id, GITHUB_ACTIONS="true", **github_job(subject))
    monkeypatch.delenv("AZURE_CLIENT_SECRET")

    found = look(settings_of("staging"), "login", "rights")

    assert made.client_id in only(found, "login").what
    said = [(each.mark, each.what) for each in found["rights"]]
    blobs = (Mark.BAD, "this login may not read blobs or write blobs of the storage account 'mlopslocal'")
    if "Reader" in roles_given:
        assert said[0][0] is Mark.BAD
        assert said[0][1].startswith("this login may not submit jobs, create the cluster")
        assert said[1] == blobs
    elif "Contributor" in roles_given:
        assert said == [blobs]
    else:
        assert said == [(Mark.DOUBTFUL, "this login may give roles to others, which no workflow needs")]
