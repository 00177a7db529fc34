"""Data, environments, components and models that a client makes."""

# mypy: disable-error-code="untyped-decorator"

import json
import warnings
from pathlib import Path
from typing import Any

import pytest

with warnings.catch_warnings():  # the SDK's own, on import
    warnings.simplefilter("ignore")
    from azure.ai.ml import load_component
    from azure.ai.ml.entities import AzureBlobDatastore, Data, Environment, Model
    from azure.core.exceptions import HttpResponseError, ResourceNotFoundError

pytestmark = pytest.mark.filterwarnings("ignore:::azure|marshmallow|msal")
COMPONENT = """
type: command
name: {name}
version: 1
is_deterministic: false
inputs:
  count: {{type: integer, default: 2, min: 1}}
  maybe: {{type: boolean, optional: true}}
outputs:
  out: {{type: uri_folder}}
code: ./code
environment: azureml:none:1
command: {command}
"""


@pytest.fixture
def model_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "MLmodel").write_text("flavors:\n  python_function:\n    loader_module: x\n    rank: 3\n")
    return folder


def test_the_workspace_and_its_datastores(ml_client: Any) -> None:
    workspace = ml_client.workspaces.get("local")
    assert workspace.discovery_url == "https://eastus.api.azureml.ms/discovery"
    assert workspace.mlflow_tracking_uri.startswith("azureml://eastus.api.azureml.ms/mlflow/v2.0/subscriptions/")
    assert [item.name for item in ml_client.workspaces.list()] == ["local"]
    with pytest.raises(ResourceNotFoundError):
        ml_client.workspaces.get("another")
    assert ml_client.datastores.get_default().name == "workspaceblobstore"
    assert {"workspaceblobstore", "workspaceartifactstore"} <= {item.name for item in ml_client.datastores.list()}
    made = AzureBlobDatastore(name="mine", account_name="mlopslocal", container_name="azureml")
    assert ml_client.datastores.create_or_update(made).container_name == "azureml"
    ml_client.datastores.delete("mine")
    with pytest.raises(ResourceNotFoundError):
        ml_client.datastores.get("mine")


def test_models(ml_client: Any, model_folder: Path) -> None:
    for version in ("1", "2", "10"):
        model = Model(name="chat", version=version, path=str(model_folder), type="mlflow_model", tags={"v": version})
        assert ml_client.models.create_or_update(model).flavors["python_function"]["rank"] == "3"
    assert ml_client.models.get("chat", label="latest").version == "10"
    assert {registered.version for registered in ml_client.models.list("chat")} == {"1", "2", "10"}
    changed = ml_client.models.get("chat", version="2")
    changed.tags["more"] = "yes"
    changed.description = "said"
    ml_client.models.create_or_update(changed)
    again = ml_client.models.get("chat", version="2")
    assert (again.tags, again.description) == ({"v": "2", "more": "yes"}, "said")
    ml_client.models.archive("chat", version="10")
    assert ml_client.models.get("chat", label="latest").version == "2"
    assert "10" not in [registered.version for registered in ml_client.models.list("chat")]
    ml_client.models.restore("chat", version="10")
    assert "chat" in [registered.name for registered in ml_client.models.list()]
    unnumbered = ml_client.models.create_or_update(Model(name="chat", path=str(model_folder), type="mlflow_model"))
    assert unnumbered.version == "11"


def test_a_models_path_cannot_change(ml_client: Any, model_folder: Path, tmp_path: Path) -> None:
    ml_client.models.create_or_update(Model(name="fixed", version="1", path=str(model_folder), type="mlflow_model"))
    other = tmp_path / "other"
    other.mkdir()
    (other / "MLmodel").write_text("flavors: {}\n")
    uri = "azureml://datastores/workspaceblobstore/paths/elsewhere"
    with pytest.raises(Exception, match=r"cannot be updated|already exists|already linked|Cannot create"):
        ml_client.models.create_or_update(Model(name="fixed", version="1", path=uri, type="mlflow_model"))


def test_models_that_cannot_be(ml_client: Any, tmp_path: Path) -> None:
    with pytest.raises(HttpResponseError, match="was not found") as caught:
        ml_client.models.create_or_update(
            Model(name="lost", version="1", path="azureml://jobs/nobody/outputs/out", type="mlflow_model")
        )
    assert json.loads(caught.value.response.text())["error"]["code"] == "NotFound"
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain" / "x.txt").write_text("x")
    with pytest.raises(HttpResponseError, match="no file 'MLmodel'"):
        ml_client.models.create_or_update(
            Model(name="plain", version="1", path=str(tmp_path / "plain"), type="mlflow_model")
        )
    made = ml_client.models.create_or_update(
        Model(name="plain", version="1", path=str(tmp_path / "plain"), type="custom_model")
    )
    ml_client.models.download("plain", "1", download_path=tmp_path / "down")
    assert next((tmp_path / "down").rglob("x.txt")).read_text() == "x"
    assert made.flavors is None or made.flavors == {}


def test_data(ml_client: Any, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text("{}\n")
    made = ml_client.data.create_or_update(
        Data(name="rows", version="1", path=str(tmp_path / "rows.jsonl"), type="uri_file", description="d")
    )
    assert made.path.endswith("/rows.jsonl")
    assert ml_client.data.get("rows", label="latest").version == "1"
    assert "rows" in [asset.name for asset in ml_client.data.list()]
    ml_client.data.archive("rows", version="1")
    assert not list(ml_client.data.list("rows"))


def test_environments(ml_client: Any) -> None:
    made = ml_client.environments.create_or_update(Environment(name="env", version="3", image="ubuntu:22.04"))
    assert made.version == "3"
    assert ml_client.environments.get("env", version="3").image == "ubuntu:22.04"
    assert ml_client.environments.get("env", label="latest").version == "3"
    with pytest.raises(HttpResponseError, match="cannot be changed"):
        ml_client.environments.create_or_update(Environment(name="env", version="3", image="ubuntu:24.04"))


def test_components(ml_client: Any, tmp_path: Path) -> None:
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "x.py").write_text("print(1)\n")
    file = tmp_path / "c.yml"
    file.write_text(COMPONENT.format(name="counted", command="python x.py"))
    made = ml_client.components.create_or_update(load_component(file))
    assert (made.name, made.version) == ("counted", "1")
    component = ml_client.components.get("counted", version="1")
    assert component.inputs["count"].default in (2, "2")
    assert component.inputs["maybe"].optional is True
    file.write_text(COMPONENT.format(name="counted", command="python other.py"))
    with pytest.raises(HttpResponseError, match="immutable"):
        ml_client.components.create_or_update(load_component(file))
    assert "counted" in [item.name for item in ml_client.components.list()]


def test_lists_come_in_pages(ml_client: Any, model_folder: Path) -> None:
    first = ml_client.models.create_or_update(
        Model(name="paged", version="0", path=str(model_folder), type="mlflow_model")
    )
    for version in range(1, 106):
        ml_client.models.create_or_update(
            Model(name="paged", version=str(version), path=first.path, type="mlflow_model")
        )
    assert len(list(ml_client.models.list("paged"))) == 106
