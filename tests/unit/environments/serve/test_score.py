"""The scoring script under the server that Azure runs it under."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from standin.layouts import MLMODEL
from tests.support.waiting import until
from tests.unit.environments.serve.conftest import BAD_PAYLOADS, Server, body

Starting = Callable[..., contextlib.AbstractContextManager[Server]]
pytestmark = pytest.mark.slow


def test_flat_and_nested(echo: Server) -> None:
    assert echo.score(body("one")) == (200, {"output": "one (1)"})
    assert echo.score(body("one", nested=True)) == (200, {"output": ["one (1)"]})
    assert echo.score(body("ä", "b", nested=True)) == (200, {"output": ["ä (2)", "b (2)"]})


def test_tokens_are_told_by_a_model_that_counts_them(echo: Server) -> None:
    usage = {"prompt_tokens": 1, "completion_tokens": 3}
    assert echo.score(body("one", top_k=1)) == (200, {"output": "one (1)", "usage": usage, "finish_reason": "stop"})
    status, many = echo.score(body("one", "four", nested=True, top_k=1))
    assert (status, many["usage"]) == (200, {"prompt_tokens": 2, "completion_tokens": 7})
    assert many["finish_reason"] == ["stop", "length"]


@pytest.mark.parametrize(("payload", "status", "message"), BAD_PAYLOADS)
def test_bad_payloads(echo: Server, payload: Any, status: int, message: str) -> None:
    expected, answer = echo.score(payload)
    assert expected == status
    assert answer["error"]["code"] == "BadRequest"
    assert message in answer["error"]["message"]


def test_only_post_is_answered(echo: Server) -> None:
    assert echo.request("GET", "/score")[0] == 405


def test_a_model_that_fails_says_so_to_azures_gateway(echo: Server) -> None:
    status, headers, _ = echo.request("POST", "/score", json.dumps(body("break")).encode())
    assert status == 500
    assert headers["x-ms-run-function-failed"] == "True"
    assert "the model broke" in echo.log.read_text()
    assert echo.score(body("fine"))[0] == 200


def ask_all(server: Server, bodies: list[dict[str, Any]]) -> list[Any]:
    with ThreadPoolExecutor(len(bodies)) as pool:
        return [answer["output"] for status, answer in pool.map(server.score, bodies) if status == 200]


def batch_sizes(answers: list[str]) -> list[int]:
    return [int(match.group(1)) for answer in answers if (match := re.search(r"\((\d+)\)$", answer))]


def test_requests_that_arrive_together_are_answered_together(echo: Server) -> None:
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(echo.score, body("hold"))
        until((echo.log.parent / "held").exists, what="the first request")
        answers = ask_all(echo, [body(f"question {index}") for index in range(7)])
        assert first.result()[0] == 200
    assert answers == [f"question {index} (7)" for index in range(7)]


def test_requests_with_seeds_are_answered_alone(echo: Server) -> None:
    answers = ask_all(echo, [body(f"question {index}", seed=1) for index in range(4)])
    assert batch_sizes(answers) == [1, 1, 1, 1]


def test_one_failure_in_a_batch_leaves_the_others_be(echo: Server) -> None:
    with ThreadPoolExecutor(6) as pool:
        statuses = list(pool.map(lambda text: echo.score(body(text))[0], ["a", "b", "break", "c", "refuse", "d"]))
    assert statuses == [200, 200, 500, 200, 400, 200]


def test_settings_come_from_the_environment(starting: Starting, echo_model: Path, tmp_path: Path) -> None:
    with starting(echo_model, tmp_path, MLOPS_MAX_BATCH_SIZE="1", MLOPS_BATCH_WAIT_MS="0") as server:
        answers = ask_all(server, [body(f"question {index}") for index in range(4)])
        assert batch_sizes(answers) == [1, 1, 1, 1]
        assert "batches of 1, waiting 0 ms" in server.log.read_text()


@pytest.mark.parametrize(
    ("environment", "complaint"),
    [
        ({"MLOPS_MAX_BATCH_SIZE": "many"}, "MLOPS_MAX_BATCH_SIZE is 'many'"),
        ({"MLOPS_MAX_BATCH_SIZE": "0"}, "MLOPS_MAX_BATCH_SIZE is '0'; expected at least 1"),
    ],
)
def test_a_wrong_setting_keeps_the_server_from_starting(
    starting: Starting, echo_model: Path, tmp_path: Path, environment: dict[str, str], complaint: str
) -> None:
    with pytest.raises(AssertionError, match=complaint), starting(echo_model, tmp_path, **environment):
        pass


def test_a_folder_without_a_model_keeps_the_server_from_starting(starting: Starting, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(AssertionError, match="no MLmodel file below"), starting(tmp_path / "empty", tmp_path):
        pass


def test_a_model_of_the_registrys_pipeline_is_named(starting: Starting, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "MLmodel").write_text(MLMODEL.format(repo="microsoft/x", name="x", uuid="0" * 32))
    says = "loader is 'azureml.evaluate.mlflow.hftransformers'.*environments/serve/engine/environment.yml"
    with pytest.raises(AssertionError, match=says), starting(tmp_path / "model", tmp_path):
        pass


def test_loading_leaves_the_model_as_it_is(echo: Server, echo_model: Path) -> None:
    assert echo.score(body("one"))[0] == 200
    assert not list(echo_model.rglob("__pycache__"))
