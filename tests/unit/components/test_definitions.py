"""The .yml files against the interface that they promise, and against the code that they start."""

from __future__ import annotations

import dataclasses
import importlib
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from chat_completion.common.limits import PipelineInputs
from tests.support.checkout import ROOT
from tests.unit.components.conftest import COMPONENTS

STEPS = ("validation", "model_import", "preprocess", "finetune", "evaluate", "package")
INTERFACE: dict[str, dict[str, Any]] = json.loads(Path(__file__).with_name("pipeline_interface.json").read_text())

MORE = {"precision": ["4"]}
"""Values that ours takes besides."""


def load(name: str) -> dict[str, Any]:
    definition: dict[str, Any] = yaml.safe_load((COMPONENTS / f"{name}.yml").read_text())
    return definition


def as_text(value: object) -> str | None:
    return None if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def test_the_pipeline_takes_what_the_registrys_takes() -> None:
    pipeline = load("chat_completion_pipeline")
    assert list(pipeline["inputs"]) == list(INTERFACE)
    assert len(INTERFACE) == 69
    for name, expected in INTERFACE.items():
        actual = pipeline["inputs"][name]
        assert actual["type"] == expected["type"], name
        assert actual.get("optional", False) is expected["optional"], name
        default = expected.get("default")
        if default is not None and actual["type"] == "number":
            default = as_text(float(default))
        assert as_text(actual.get("default")) == default, name
        limit = expected.get("limit", "")
        assert actual.get("min") == (int(limit.removeprefix("min ")) if limit.startswith("min") else None), name
        choices = [*limit.split(", "), *MORE.get(name, [])] if limit and not limit.startswith("min") else None
        assert actual.get("enum") == choices, name
    assert {name: output["type"] for name, output in pipeline["outputs"].items()} == {
        "pytorch_model_folder": "uri_folder",
        "mlflow_model_folder": "mlflow_model",
    }


def test_every_input_of_the_pipeline_reaches_a_step() -> None:
    pipeline = load("chat_completion_pipeline")
    used = set(re.findall(r"parent\.inputs\.(\w+)", json.dumps(pipeline["jobs"])))
    assert used == set(pipeline["inputs"])


def test_every_input_that_may_be_refused_reaches_the_validation() -> None:
    placement = re.compile(r"instance_type_|compute_|shm_size_")
    decided = {name for name in INTERFACE if not placement.match(name)}
    assert {field.name for field in dataclasses.fields(PipelineInputs)} == decided
    assert set(load("chat_completion_pipeline")["jobs"]["validation"]["inputs"]) == decided


@pytest.mark.parametrize("step", STEPS)
def test_a_steps_file_agrees_with_its_code(step: str) -> None:
    definition = load(step)
    kind = importlib.import_module(f"chat_completion.{step}").Inputs
    fields = {field.name: field for field in dataclasses.fields(kind)}
    assert set(fields) == {*definition["inputs"], *definition["outputs"]}
    for name, declaration in definition["inputs"].items():
        required = fields[name].default is dataclasses.MISSING
        assert declaration.get("optional", False) is not required, name
        default = fields[name].default
        if isinstance(default, bool):
            default = str(default).lower()
        if not required:
            assert as_text(declaration.get("default")) == as_text(default), name
        option = f"--{name} '${{{{inputs.{name}}}}}'"
        assert (option if required else f"$[[{option}]]") in definition["command"], name
    for name in definition["outputs"]:
        assert f"--{name} '${{{{outputs.{name}}}}}'" in definition["command"]


@pytest.mark.parametrize("step", STEPS)
def test_steps_name_the_environment_that_is_defined(step: str) -> None:
    environment = yaml.safe_load((ROOT / "environments" / "finetune" / "environment.yml").read_text())
    assert load(step)["environment"] == f"azureml:{environment['name']}:{environment['version']}"


def test_defaults_of_the_pipeline_are_those_of_its_steps() -> None:
    pipeline = load("chat_completion_pipeline")
    for job in pipeline["jobs"].values():
        step = yaml.safe_load((COMPONENTS / job["component"]).read_text())
        assert set(job["inputs"]) <= set(step["inputs"])
        for name, source in job["inputs"].items():
            if "parent.inputs" in source:
                assert source == f"${{{{parent.inputs.{name}}}}}"
                for key in ("type", "default", "enum"):
                    assert step["inputs"][name].get(key) == pipeline["inputs"][name].get(key), (name, key)


def test_the_sdk_loads_all_of_it() -> None:
    # In a process of its own: the SDK warns while it is imported, and warnings are errors here.
    import subprocess
    import sys

    program = """
from azure.ai.ml import load_component
from azure.ai.ml._utils._asset_utils import get_ignore_file
pipeline = load_component("chat_completion_pipeline.yml")
result = pipeline._validate()
assert result.passed, result
assert len(pipeline.inputs) == 69
assert pipeline.jobs["finetune"].compute == "${{parent.inputs.compute_finetune}}"
ignored = get_ignore_file(".")
import os
here = os.getcwd()
assert not ignored.is_file_excluded(f"{here}/chat_completion/finetune.py")
for path in ("standin/build.py", "finetune.yml", ".amlignore", "chat_completion/__pycache__/finetune.cpython-311.pyc"):
    assert ignored.is_file_excluded(f"{here}/{path}"), path
print("loaded")
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=COMPONENTS, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "loaded", done.stderr
