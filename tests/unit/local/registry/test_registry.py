"""The registry: the base model under its label, the checkout's components, downloads."""

from __future__ import annotations

import ast
import os
import shutil
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from mlops.local.jobs.components import Components
from mlops.local.jobs.locations import Locations
from mlops.local.jobs.runs import Runs
from mlops.local.registry.part import RegistryPart
from mlops.local.registry.standin import StandIn, StandInFailed
from mlops.local.state.config import Config
from mlops.local.state.layout import Layout
from mlops.local.state.workspace import Workspace

with warnings.catch_warnings():  # the SDK's own, on import
    warnings.simplefilter("ignore")
    import azure.ai.ml  # noqa: F401

pytestmark = pytest.mark.filterwarnings("ignore:::azure|marshmallow|msal")
STEP = "type: command\nname: step\nversion: {version}\ncode: ./code\nenvironment: azureml:env:1\ncommand: echo hi\n"
PIPELINE = "type: pipeline\nname: flow\nversion: 1\njobs:\n  only:\n    component: ./step.yml\n"


def test_the_base_model_by_its_label(registry_client: Any) -> None:
    model = registry_client.models.get("Phi-3-mini-4k-instruct", label="latest")
    assert (model.version, model.type) == ("15", "mlflow_model")
    assert model.id == "azureml://registries/azureml/models/Phi-3-mini-4k-instruct/versions/15"
    assert "Standard_NC24ads_A100_v4" in ast.literal_eval(model.tags["finetune_compute_allow_list"])
    assert ast.literal_eval(model.tags["model_specific_defaults"])["learning_rate"] == 5e-6
    assert [item.name for item in registry_client.models.list()] == ["Phi-3-mini-4k-instruct"]


def test_the_pipeline_by_its_label(registry_client: Any) -> None:
    component = registry_client.components.get("chat_completion_pipeline", label="latest")
    assert component.version == "0.0.82"
    assert component.id == "azureml://registries/azureml/components/chat_completion_pipeline/versions/0.0.82"
    assert len(component.inputs) == 69
    again = registry_client.components.get("chat_completion_pipeline", version="0.0.82")
    assert again.id == component.id


@pytest.mark.slow
def test_the_base_model_can_be_downloaded(registry_client: Any, tmp_path: Path) -> None:
    registry_client.models.download("Phi-3-mini-4k-instruct", "15", download_path=tmp_path)
    folder = tmp_path / "Phi-3-mini-4k-instruct" / "15"
    assert (folder / "MLmodel").exists()
    assert (folder / "data" / "model" / "model.safetensors").stat().st_size > 1_000_000


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    components = tmp_path / "checkout" / "components"
    (components / "code").mkdir(parents=True)
    (components / "code" / "x.py").write_text("print(1)\n")
    (components / "step.yml").write_text(STEP.format(version=1))
    (components / "flow.yml").write_text(PIPELINE)
    (components / "broken.yml").write_text("name: [")
    return tmp_path / "checkout"


def test_components_follow_the_checkout(checkout: Path, tmp_path: Path) -> None:
    config, layout = Config(), Layout(root=tmp_path / "state", cache=tmp_path / "cache")
    workspace = Workspace.open(layout, config)
    part = RegistryPart(workspace, checkout)
    part.refresh()
    components = Components(workspace.store, config)
    step = components.find("azureml://registries/azureml/components/step/labels/latest")
    assert step is not None
    assert step.environment == "azureml://registries/azureml/environments/env/versions/1"
    flow = components.find("azureml:flow:1", home=config.registry_id)
    assert flow is not None
    assert flow.jobs["only"]["component"] == "azureml:step:1"
    locations = Locations(layout, config, workspace.accounts, workspace.store, Runs(workspace.store))
    first = locations.path(str(step.code))
    assert (first / "x.py").read_text() == "print(1)\n"

    later = time.time() + 10  # however coarse the clock of the file system is
    for path, text in (("code/x.py", "print(2)\n"), ("step.yml", STEP.format(version=2))):
        (checkout / "components" / path).write_text(text)
        os.utime(checkout / "components" / path, (later, later))
    (checkout / "components" / "flow.yml").unlink()
    part.refresh()
    newer = components.find("azureml:step@latest", home=config.registry_id)
    assert newer is not None
    assert newer.version == "2"
    assert (locations.path(str(newer.code)) / "x.py").read_text() == "print(2)\n"
    assert (first / "x.py").read_text() == "print(1)\n"  # a snapshot stays what it was
    assert components.find("azureml:flow:1", home=config.registry_id) is None
    shutil.rmtree(checkout)


LAYOUTS = """
import pathlib, sys
value = lambda name: pathlib.Path(sys.argv[sys.argv.index(name) + 1])
value("--hub-cache").mkdir()
value("--mlflow").mkdir()
(value("--mlflow") / "MLmodel").write_text("flavors: {}")
with open(pathlib.Path(__file__).with_name("count.txt"), "a") as count:
    count.write("x")
"""


def standin(tmp_path: Path, layouts: str) -> StandIn:
    folder = tmp_path / "checkout" / "components" / "standin"
    (folder / "model").mkdir(parents=True)
    (folder / "model" / "config.json").write_text("{}")
    (folder / "layouts.py").write_text(layouts)
    return StandIn(Layout(root=tmp_path / "state", cache=tmp_path / "cache"), tmp_path / "checkout")


def test_the_base_model_is_laid_out_once(tmp_path: Path) -> None:
    model = standin(tmp_path, LAYOUTS)
    leftover = model.folder.parent / f".{model.folder.name}.dead"
    leftover.mkdir(parents=True)
    with ThreadPoolExecutor(3) as pool:
        folders = set(pool.map(lambda _: model.ensure(publish=tmp_path / "blobs"), range(3)))
    assert folders == {model.folder}
    assert (tmp_path / "checkout" / "components" / "standin" / "count.txt").read_text() == "x"
    assert (tmp_path / "blobs" / "models" / "Phi-3-mini-4k-instruct" / "15" / "MLmodel").exists()
    assert not leftover.exists()
    before = model.key
    (tmp_path / "checkout" / "components" / "standin" / "model" / "model.safetensors").write_bytes(b"other weights")
    assert model.key != before


def test_a_base_model_that_cannot_be_laid_out_says_why(tmp_path: Path) -> None:
    model = standin(tmp_path, "raise SystemExit('no space')")
    with pytest.raises(StandInFailed, match="no space"):
        model.ensure()
    assert [path.name for path in model.folder.parent.iterdir() if path.is_dir()] == []


def test_a_base_model_that_is_missing_says_how_to_get_it_back(tmp_path: Path) -> None:
    model = standin(tmp_path, LAYOUTS)
    shutil.rmtree(tmp_path / "checkout" / "components" / "standin" / "model")
    with pytest.raises(StandInFailed, match=r"git checkout -- components/standin/model"):
        model.ensure()
