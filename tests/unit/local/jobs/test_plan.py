"""What is decided when a job is submitted: bindings, defaults, refusals. No server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlops.local.jobs.checks import PlanError, seconds
from mlops.local.jobs.components import Components, wire
from mlops.local.jobs.expressions import ExpressionError, command_line, reference
from mlops.local.jobs.locations import Locations, Unresolved
from mlops.local.jobs.plan import Plan, Planner, load
from mlops.local.jobs.runs import Runs, new_run
from mlops.local.state.accounts import ServedAccounts
from mlops.local.state.config import Config
from mlops.local.state.layout import Layout
from mlops.local.state.store import Store

CONFIG = Config()
TRAIN = {
    "type": "command",
    "name": "train",
    "version": "1",
    "command": "train --rate ${{inputs.rate}} $[[--seed ${{inputs.seed}}]] --out ${{outputs.model}}",
    "inputs": {
        "rate": {"type": "number", "min": "0", "max": "1", "default": "0.5"},
        "seed": {"type": "integer", "optional": "True"},
        "data": {"type": "uri_file"},
        "mode": {"type": "string", "enum": ["fast", "slow"], "default": "fast"},
    },
    "outputs": {"model": {"type": "uri_folder"}},
}
PACK = {
    "type": "command",
    "name": "pack",
    "version": "1",
    "command": "pack ${{inputs.model}} ${{outputs.packed}}",
    "inputs": {"model": {"type": "uri_folder"}},
    "outputs": {"packed": {"type": "mlflow_model"}},
}
NESTED = {
    "type": "pipeline",
    "name": "nested",
    "version": "1",
    "inputs": {"data": {"type": "uri_file"}, "seed": {"type": "integer", "optional": "True"}},
    "outputs": {"packed": {"type": "mlflow_model"}},
    "jobs": {
        "second": {
            "component": "azureml:pack:1",
            "inputs": {"model": "${{parent.jobs.first.outputs.model}}"},
            "outputs": {"packed": "${{parent.outputs.packed}}"},
        },
        "first": {
            "component": "azureml:train:1",
            "inputs": {"data": "${{parent.inputs.data}}", "seed": "${{parent.inputs.seed}}"},
        },
    },
}
DATA = {"uri": "azureml://datastores/workspaceblobstore/paths/x.jsonl", "job_input_type": "uri_file"}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "workspace.sqlite")
    for home in (CONFIG.workspace_id, CONFIG.registry_id):
        for spec in (TRAIN, PACK, NESTED):
            identity = f"{home}/components/{spec['name']}/versions/1"
            store.put(identity, {"id": identity, "name": "1", "properties": {"componentSpec": spec}})
    return store


@pytest.fixture
def planner(store: Store) -> Planner:
    components = Components(store, CONFIG)
    return Planner(components, workspace_id=CONFIG.workspace_id, registry_id=CONFIG.registry_id)


def node(name: str, *, registry: bool = False, **inputs: Any) -> dict[str, Any]:
    identity = f"azureml://registries/azureml/components/{name}/versions/1" if registry else f"azureml:{name}:1"
    plain = {k: v if isinstance(v, dict) else {"job_input_type": "literal", "value": v} for k, v in inputs.items()}
    return {"type": "command", "componentId": identity, "inputs": plain, "outputs": {}}


def plan(planner: Planner, jobs: dict[str, Any], **properties: Any) -> Plan:
    return planner.pipeline("job", {"experimentName": "e", "jobs": jobs, **properties})


@pytest.mark.parametrize("registry", [False, True])
def test_a_nested_pipeline_is_flattened(planner: Planner, registry: bool) -> None:
    job = node("nested", registry=registry, data=DATA)
    job["outputs"] = {"packed": {"value": "${{parent.outputs.trained}}", "type": "literal"}}
    made = plan(planner, {"n": job}, outputs={"trained": {"jobOutputType": "mlflow_model"}})
    steps = {step.path: step for step in made.steps}
    assert set(steps) == {"n/first", "n/second"}
    assert steps["n/second"].needs == ["n/first"]
    assert steps["n/second"].inputs["model"] == {
        "is": "output",
        "step": "n/first",
        "output": "model",
        "type": "uri_folder",
    }
    assert steps["n/second"].outputs["packed"]["uri"].endswith("/paths/azureml/job/trained/")
    assert steps["n/first"].inputs["seed"] == {"is": "absent"}
    assert steps["n/first"].inputs["rate"] == {"is": "literal", "value": "0.5"}
    assert [group.path for group in made.groups] == ["n"]
    assert steps["n/first"].parent == made.groups[0].run
    assert load(made.json()) == made


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({}, "Required input 'data'"),
        ({"data": DATA, "rate": "2"}, "greater than the maximum"),
        ({"data": DATA, "rate": "-1"}, "less than the minimum"),
        ({"data": DATA, "rate": "fast"}, "a number is expected"),
        ({"data": DATA, "seed": "1.5"}, "an integer is expected"),
        ({"data": DATA, "mode": "medium"}, "Allowed values: fast, slow"),
        ({"data": DATA, "typo": "1"}, "Unknown input 'typo'"),
        ({"data": "just text"}, "a literal value was given"),
        ({"data": DATA, "rate": DATA}, "files were given"),
        ({"data": "${{parent.jobs.other.outputs.x}}"}, "'other' is referred to and does not exist"),
        ({"data": "${{parent.somewhere.x}}"}, "is not supported"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(planner: Planner, inputs: dict[str, Any], message: str) -> None:
    with pytest.raises(PlanError, match=message):
        plan(planner, {"t": node("train", **inputs)})


def test_other_refusals(planner: Planner) -> None:
    with pytest.raises(PlanError, match="does not exist"):
        plan(planner, {"t": node("nothing")})
    with pytest.raises(PlanError, match="sweep"):
        plan(planner, {"t": {**node("train", data=DATA), "type": "sweep"}})
    with pytest.raises(PlanError, match="has no jobs"):
        plan(planner, {})
    with pytest.raises(PlanError, match="depend on each other"):
        plan(
            planner,
            {
                "a": node("pack", model="${{parent.jobs.b.outputs.packed}}"),
                "b": node("pack", model="${{parent.jobs.a.outputs.packed}}"),
            },
        )
    with pytest.raises(PlanError, match="is not bound"):
        plan(planner, {"t": node("train", data=DATA)}, outputs={"x": {"jobOutputType": "uri_folder"}})
    bound = {**node("train", data=DATA), "outputs": {"nope": {"value": "${{parent.outputs.x}}"}}}
    with pytest.raises(PlanError, match="has no output 'nope'"):
        plan(planner, {"t": bound})


def test_a_distributed_step_counts_its_processes(planner: Planner) -> None:
    job = {**node("train", data=DATA), "resources": {"instance_count": 2}}
    job["distribution"] = {"type": "pytorch", "process_count_per_instance": "${{parent.inputs.gpus}}"}
    made = plan(planner, {"t": job}, inputs={"gpus": {"jobInputType": "literal", "value": "3"}})
    assert made.steps[0].processes == 6


def test_command_lines() -> None:
    command = "run --a ${{inputs.a}} $[[--b '${{inputs.b}}']] > ${{outputs.o}}"
    assert command_line(command, {"a": "1", "b": None}, {"o": "/o"}) == "run --a 1  > /o"
    assert command_line(command, {"a": "1", "b": "2"}, {"o": "/o"}) == "run --a 1 --b '2' > /o"
    with pytest.raises(ExpressionError, match="'a', which has no value"):
        command_line(command, {"a": None, "b": None}, {"o": "/o"})
    with pytest.raises(ExpressionError, match="not declared"):
        command_line("${{inputs.z}}", {}, {})
    with pytest.raises(ExpressionError, match="search_space"):
        command_line("${{search_space.x}}", {}, {})


@given(st.text(max_size=40))
def test_any_text_is_a_literal_or_a_reference_or_refused(text: str) -> None:
    try:
        parsed = reference(text)
    except ExpressionError:
        assert "${{" in text
    else:
        assert parsed is None or "${{" in text


@pytest.mark.parametrize(("text", "expected"), [("90", 90.0), ("PT1H30M", 5400.0), ("P1DT1S", 86401.0), (None, None)])
def test_timeouts(text: str | None, expected: float | None) -> None:
    assert seconds(text) == expected


def test_specifications_travel_as_texts() -> None:
    assert wire({"a": True, "b": [1, 2.5], "c": {"d": None}}) == {"a": "True", "b": ["1", "2.5"], "c": {"d": None}}


def test_uris_stay_inside(store: Store, tmp_path: Path) -> None:
    runs = Runs(store)
    runs.add(
        new_run(
            name="j", root="j", parent=None, experiment="e", display_name="j", kind="azureml.PipelineRun", caller="me"
        ),
        private={"outputs": {"model": {"uri": "azureml://datastores/workspaceblobstore/paths/azureml/j/model/"}}},
    )
    layout = Layout(root=tmp_path, cache=tmp_path / "cache")
    locations = Locations(layout, CONFIG, ServedAccounts(CONFIG.account), store, runs)
    base = tmp_path / "blobs" / CONFIG.account / CONFIG.container
    assert locations.path("azureml://datastores/workspaceblobstore/paths/a/b") == base / "a" / "b"
    long = "azureml://subscriptions/s/resourcegroups/g/workspaces/w/datastores/workspaceblobstore/paths/a%20b"
    assert locations.path(long) == base / "a b"
    assert locations.path("azureml://jobs/j/outputs/model/paths/x") == base / "azureml" / "j" / "model" / "x"
    for bad in (
        "azureml://datastores/workspaceblobstore/paths/../../secret",
        "azureml://datastores/workspaceblobstore/paths/%2e%2e/x",
        "azureml://datastores/nothing/paths/x",
        "azureml://jobs/j/outputs/nothing",
        "azureml://jobs/nobody/outputs/model",
        "/etc/passwd",
        "file:///etc/passwd",
        "https://example.com/x",
        "azureml:nothing:1",
    ):
        with pytest.raises(Unresolved):
            locations.path(bad)


def test_a_run_ends_once(store: Store) -> None:
    runs = Runs(store)
    runs.add(new_run(name="r", root="r", parent=None, experiment="e", display_name="r", kind="k", caller="me"))
    assert runs.move("r", "Running")
    assert runs.move("r", "CancelRequested")
    assert not runs.move("r", "Finalizing")
    assert runs.move("r", "Canceled")
    assert not runs.move("r", "Completed")
    assert (runs.get("R") or {})["status"] == "Canceled"
