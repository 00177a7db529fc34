"""The scoring script of a deployment: loads the MLflow model and answers chats.

It runs under azureml-inference-server-http, on a managed endpoint as on a laptop. Azure calls one script in many
threads when the server is told to (`GUNICORN_CMD_ARGS="--worker-class gthread --threads 8"`); requests that arrive
together are then answered together. Environment variables:

    MLOPS_MAX_BATCH_SIZE   conversations in one call of the model (8; 1 switches batching off)
    MLOPS_BATCH_WAIT_MS    longest wait for a batch to fill, when others were in flight (10)

An answer is `{"output": text}`, with `"usage": {"prompt_tokens", "completion_tokens"}` and `"finish_reason"` ("stop" or
"length") where the model tells them. For a list of conversations `output` and `finish_reason` are lists in their order,
and `usage` is the sum: it says what the request cost.
"""

import itertools
import json
import logging
import os
import sys
import time
import warnings
from collections.abc import Hashable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

from azureml_inference_server_http.api.aml_request import rawhttp
from azureml_inference_server_http.api.aml_response import AMLResponse
from batching import MicroBatcher
from contract import Answer, Refused, body_of, check_method, check_size, read

logger = logging.getLogger("azmlinfsrv.score")

JSON = {"Content-Type": "application/json"}


_batcher: MicroBatcher[Any, Answer]
_counter = itertools.count(1)


def setting(name: str, default: float, *, least: float) -> float:
    """A number from the environment.

    Raises:
        ValueError: when it is none, or too small; the deployment then fails to start and says why.
    """
    text = os.environ.get(name, "")
    try:
        value = float(text) if text else default
    except ValueError as error:
        raise ValueError(f"{name} is {text!r}; expected a number") from error
    if not value >= least:
        raise ValueError(f"{name} is {text!r}; expected at least {least:g}")
    return value


def model_folder(root: Path) -> Path:
    """The MLflow model below the folder that Azure mounts the model at."""
    models = sorted(root.rglob("MLmodel"), key=lambda path: len(path.parts))
    if not models:
        raise FileNotFoundError(f"no MLmodel file below AZUREML_MODEL_DIR '{root}'")
    return models[0].parent


def init() -> None:
    """Loads the model and answers one question with it, so that the first caller does not wait for warming up."""
    global _batcher
    started = time.monotonic()
    max_items = int(setting("MLOPS_MAX_BATCH_SIZE", 8, least=1))
    wait_s = setting("MLOPS_BATCH_WAIT_MS", 10, least=0) / 1000
    root = os.environ.get("AZUREML_MODEL_DIR")
    if not root:
        raise ValueError("AZUREML_MODEL_DIR is not set")
    import mlflow.models
    import mlflow.pyfunc

    folder = model_folder(Path(root))
    loader = mlflow.models.Model.load(str(folder)).flavors.get("python_function", {}).get("loader_module", "none")
    if not loader.startswith("mlflow."):
        raise ValueError(
            f"the model's loader is '{loader}', as the registry's pipeline packs it: this server takes what "
            "components/package.yml packs; serve it with environments/serve/engine/environment.yml"
        )
    # Loading would otherwise leave bytecode inside the model's folder, which may be read-only, or hashed.
    writes, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    with warnings.catch_warnings():
        # The model takes one conversation or many; no type hint that MLflow knows says that.
        warnings.filterwarnings("ignore", message=".*type hints.*", category=UserWarning)
        # Its own `predict` is called, past MLflow's, which would look for a schema on every call.
        model = mlflow.pyfunc.load_model(str(folder)).unwrap_python_model()
    sys.dont_write_bytecode = writes

    def answer(conversations: list[Any], key: Hashable) -> list[Answer]:
        assert isinstance(key, tuple)
        request = {"input_string": conversations, "parameters": json.loads(key[0])}
        prediction = model.predict(None, request)
        unknown = [None] * len(conversations)  # a model may have been packed before it counted tokens
        columns = (prediction["output"], prediction.get("usage", unknown), prediction.get("finish_reason", unknown))
        return [Answer(*row) for row in zip(*columns, strict=True)]

    answer([[{"role": "user", "content": "Hello"}]], grouping_key({"max_new_tokens": 1}))
    _batcher = MicroBatcher(answer, max_items=max_items, wait_s=wait_s)
    logger.info(
        "loaded %s in %.1f s; batches of %d, waiting %.0f ms",
        folder,
        time.monotonic() - started,
        max_items,
        wait_s * 1000,
    )


def grouping_key(parameters: dict[str, Any]) -> tuple[str, int]:
    """Requests with this key in common are answered in one call.

    One with a seed is kept by itself: in a batch, the same seed would give another answer.
    """
    batch_key = next(_counter) if "seed" in parameters else 0
    return json.dumps(parameters, sort_keys=True), batch_key


@rawhttp  # type: ignore[untyped-decorator]
def run(request: Any) -> AMLResponse:
    """Answers one request: 200 with the text, 400 when the payload is wrong; the server makes any error a 500.

    Azure's gateway turns that 500 into 424, "the model failed".
    """
    try:
        check_method(request.method)
        body = request.get_data(cache=False)
        check_size(len(body))
        payload = read(body)
        answers = _batcher.submit(payload.conversations, grouping_key(payload.parameters))
    except Refused as refused:
        return AMLResponse(refused.body, refused.status, JSON)
    except ValueError as error:
        if getattr(error, "bad_request", False):
            return AMLResponse(Refused(str(error)).body, 400, JSON)
        raise
    return AMLResponse(body_of(answers, single=payload.single), 200, JSON)
