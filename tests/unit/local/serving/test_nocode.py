"""A model deployed without code: requests are parsed as Azure's own script parses them."""

from __future__ import annotations

import json
from typing import Any

import numpy
import pandas
import pytest

from mlops.local.serving import nocode
from tests.unit.local.serving.bench import Bench

CHAT = [{"role": "user", "content": "hi"}]
MODEL = """
import mlflow

class Echo(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input, params=None):
        if isinstance(model_input, dict):
            return {"kinds": {name: type(value).__name__ for name, value in model_input.items()}, "params": params}
        return {"kind": type(model_input).__name__, "shape": list(model_input.shape)}

mlflow.models.set_model(Echo())
"""


def test_parsing() -> None:
    assert nocode.parse([1, 2]).shape == (2,)
    frame = nocode.parse({"columns": ["a"], "index": [0], "data": [[1]]})
    assert isinstance(frame, pandas.DataFrame)
    assert frame.loc[0, "a"] == 1
    named = nocode.parse({"input_string": CHAT, "parameters": {"temperature": 0.6}})
    assert named["input_string"].dtype == object
    assert named["input_string"].tolist() == CHAT
    assert named["parameters"].item() == {"temperature": 0.6}
    assert nocode.parse({"input_string": [CHAT]})["input_string"].shape == (1, 1)
    assert nocode.parse('{"a": [1]}')["a"].tolist() == [1]
    with pytest.raises(ValueError, match="inhomogeneous"):  # as on Azure
        nocode.parse({"input_string": [[1, 2], [3]]})


def test_answers() -> None:
    assert nocode.jsonable(pandas.DataFrame({0: ["text"]})) == [{"0": "text"}]
    assert nocode.jsonable(numpy.array([1.5, 2])) == [1.5, 2]
    assert nocode.jsonable({"output": numpy.array(["a"])}) == {"output": ["a"]}
    assert nocode.jsonable(["a", numpy.int64(3)]) == ["a", 3]
    assert nocode.jsonable("text") == "text"


async def test_a_model_without_code(bench: Bench, tmp_path: Any) -> None:
    folder = tmp_path / "mlflow_model_folder"
    (folder / "code").mkdir(parents=True)
    (folder / "echo.py").write_text(MODEL)
    (folder / "MLmodel").write_text(
        "flavors:\n  python_function:\n    loader_module: mlflow.pyfunc.model\n    model_code_path: echo.py\n"
        "    python_version: 3.11.0\n    streamable: false\n    config: {}\nmlflow_version: 3.15.0\n"
    )
    bench.assets.models["ml"] = folder
    endpoint = await bench.endpoint()
    model = f"{bench.ws}/models/ml/versions/3"
    await bench.deployment(endpoint, "demo", model=model, codeConfiguration=None, environmentId=None)
    body = {"input_data": {"input_string": [CHAT], "parameters": {"temperature": 0.6}}, "params": {}}
    answer = await bench.score(endpoint, body, to="demo")
    assert answer.status_code == 200, json.dumps(bench.serving.status())
    assert answer.json()["kinds"] == {"input_string": "ndarray", "parameters": "ndarray"}
    listed = await bench.score(endpoint, {"input_data": [[1, 2, 3]]}, to="demo")
    assert listed.json() == {"kind": "ndarray", "shape": [1, 3]}
    wrong = await bench.score(endpoint, {"data": []}, to="demo")
    assert (wrong.status_code, wrong.headers["ms-azureml-model-error-statuscode"]) == (424, "500")
