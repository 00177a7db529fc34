"""The two servers beside each other, on the same weights: the same payload gets the same greedy answer.

The engine is the real vLLM, on the CPU; it serves the layout of the registry's pipeline, the other server ours.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from mlops.scoring.sse import SseReader
from standin.layouts import write_mlflow_model
from tests.benchmarks.engine import engine
from tests.benchmarks.serving import bodies, pack_standin, server
from tests.support.checkout import ROOT
from tests.support.waiting import HANG_S

PYTHON = ROOT / ".venv" / "engine" / "bin" / "python"
pytestmark = [
    pytest.mark.full,
    pytest.mark.skipif(not os.environ.get("MLOPS_FULL"), reason="MLOPS_FULL=1 runs it"),
    pytest.mark.skipif(not PYTHON.exists(), reason="vLLM is not here: make engine"),
    pytest.mark.timeout(3600),  # the engine alone is given 900 s to come up
]


@dataclass(frozen=True)
class Both:
    """Ports of the scoring script's server and of the engine's."""

    script: int
    engine: int

    def ask(self, port: int, body: bytes, **headers: str) -> tuple[int, bytes]:
        import httpx

        answer = httpx.post(f"http://127.0.0.1:{port}/score", content=body, headers=headers, timeout=HANG_S)
        return answer.status_code, answer.content

    def alike(self, payload: Any) -> Any:
        """The answer of both, which must be one."""
        body = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
        (status, script), (other, engine) = self.ask(self.script, body), self.ask(self.engine, body)
        assert (other, json.loads(engine)) == (status, json.loads(script))
        return json.loads(script)


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Both]:
    folder = tmp_path_factory.mktemp("both")
    ours, theirs = pack_standin(folder), folder / "registry" / "mlflow"
    theirs.parent.mkdir()
    write_mlflow_model(folder / "base", output=theirs, repo="microsoft/Phi-3-mini-4k-instruct")
    with (
        server(ours, batch_size=8, log=folder / "script.log") as script,
        engine(theirs.parent, python=PYTHON, log=folder / "engine.log") as port,
    ):
        yield Both(script, port)


QUESTIONS = [json.loads(body)["input_data"]["input_string"] for body in bodies()]
SYSTEM = {"role": "system", "content": "Be brief."}


@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"max_new_tokens": 5},
        {"max_tokens": 48, "do_sample": False, "temperature": 0.7},
        {"max_gen_len": 60, "repetition_penalty": 1.3},
        {"temperature": 0, "top_p": 0.3, "top_k": 5, "do_sample": True},
        {"stop": ["."]},
        {"stop": ["km", "of ", " is"], "max_tokens": 40},
        {"do_sample": True, "temperature": 1, "top_k": 1},
    ],
)
def test_greedy_answers(both: Both, parameters: dict[str, Any]) -> None:
    many = both.alike({"input_data": {"input_string": QUESTIONS[:16], "parameters": parameters}})
    assert len(many["output"]) == 16
    one = both.alike({"input_data": {"input_string": QUESTIONS[0]}, "params": parameters})
    assert one["output"] == many["output"][0]
    both.alike({"input_data": {"input_string": [SYSTEM, *QUESTIONS[1]], "parameters": parameters}})


@pytest.mark.parametrize(
    "payload",
    [
        b"{",
        b"\xff",
        {},
        {"input_data": {"input_string": []}},
        {"input_data": {"input_string": [{"role": "assistant", "content": "x"}]}},
        {"input_data": {"input_string": QUESTIONS[0], "parameters": {"temperature": 9}}},
        {"input_data": {"input_string": QUESTIONS[0], "parameters": {"top_p": 1e-7}}},
        {"input_data": {"input_string": [{"role": "user", "content": "What is the range? " * 400}]}},
        {
            "input_data": {
                "input_string": [{"role": "user", "content": "why " * 150}],
                "parameters": {"max_tokens": 4096},
            }
        },
    ],
)
def test_what_is_wrong_is_told_alike(both: Both, payload: Any) -> None:
    both.alike(payload)


def test_a_stream_ends_as_the_whole_answer(both: Both) -> None:
    body = json.dumps({"input_data": {"input_string": QUESTIONS[2]}}).encode()
    whole = json.loads(both.ask(both.script, body)[1])
    reader = SseReader()
    reader.feed(both.ask(both.engine, body, accept="text/event-stream")[1])
    assert (reader.text, reader.usage, reader.finish_reason) == (
        whole["output"],
        whole["usage"],
        whole["finish_reason"],
    )


def test_draws_are_repeated_with_their_seed(both: Both) -> None:
    parameters = {"temperature": 2, "seed": 7, "max_tokens": 30}
    body = json.dumps({"input_data": {"input_string": QUESTIONS[3], "parameters": parameters}}).encode()
    first, second = (json.loads(both.ask(both.engine, body)[1]) for _ in range(2))
    assert first == second


def test_openais_route_gives_the_same_answer(both: Both) -> None:
    import httpx

    request = {"model": "chat", "messages": QUESTIONS[0], "temperature": 0, "max_tokens": 48}
    response = httpx.post(f"http://127.0.0.1:{both.engine}/v1/chat/completions", json=request, timeout=HANG_S).json()
    payload = {"input_data": {"input_string": QUESTIONS[0], "parameters": {"max_tokens": 48}}}
    assert response["choices"][0]["message"]["content"].strip() == both.alike(payload)["output"]


def test_the_routes_that_change_the_engine_are_closed(both: Both) -> None:
    import httpx

    for path in ("/v1/load_lora_adapter", "/sleep", "/reset_prefix_cache", "/scale_elastic_ep", "/collective_rpc"):
        answer = httpx.post(f"http://127.0.0.1:{both.engine}{path}", json={}, timeout=HANG_S)
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "NotFound")
