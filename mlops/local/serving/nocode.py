"""Scoring script for an MLflow model deployed without code, parsing requests the way Azure's own script does.

``input_data`` that is a list becomes an array, ``{"columns", "index", "data"}`` a data frame, any other object a dict
of arrays (ragged lists fail, as they do there); a string is parsed first. ``params`` goes to ``predict`` where the
model knows parameters. The answer is JSON: a frame as records, an array as lists.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

model: Any = None


def init() -> None:
    """Load the model from the one folder below AZUREML_MODEL_DIR that holds an MLmodel file."""
    global model
    import mlflow.pyfunc

    root = Path(os.environ["AZUREML_MODEL_DIR"])
    models = sorted(root.rglob("MLmodel"), key=lambda path: len(path.parts))
    if not models:
        raise FileNotFoundError(f"no MLmodel file below {root}: only MLflow models can be deployed without code")
    model = mlflow.pyfunc.load_model(str(models[0].parent))


def run(raw_data: str) -> Any:
    """Answer one request."""
    import inspect

    request = json.loads(raw_data)
    if not isinstance(request, dict) or "input_data" not in request:
        raise ValueError("The request must be a JSON object with the key 'input_data'.")
    given = parse(request["input_data"])
    params = request.get("params") or None
    if params and "params" in inspect.signature(model.predict).parameters:
        return jsonable(model.predict(given, params=params))
    return jsonable(model.predict(given))


def parse(given: Any) -> Any:
    """The model's input from the request's ``input_data``."""
    import numpy

    if isinstance(given, str):
        given = json.loads(given)
    if isinstance(given, list):
        return numpy.asarray(given)
    if isinstance(given, dict) and {"columns", "index", "data"} <= given.keys():
        import pandas

        return pandas.DataFrame(given["data"], columns=given["columns"], index=given["index"])
    if isinstance(given, dict):
        return {name: numpy.asarray(value) for name, value in given.items()}
    return given


def jsonable(answer: Any) -> Any:
    """A model's answer as plain values."""
    import numpy
    import pandas

    if isinstance(answer, pandas.DataFrame | pandas.Series):
        frame = answer if isinstance(answer, pandas.DataFrame) else answer.to_frame()
        return json.loads(frame.rename(columns=str).to_json(orient="records", default_handler=str))
    if isinstance(answer, numpy.ndarray | numpy.generic):
        return answer.tolist()
    if isinstance(answer, dict):
        return {str(key): jsonable(value) for key, value in answer.items()}
    if isinstance(answer, list | tuple):
        return [value if isinstance(value, str) else jsonable(value) for value in answer]
    return answer
