"""An endpoint of a local workspace whose scoring script answers, streams, dawdles and fails as it is asked to."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.integration.conftest import home  # noqa: F401 - a fixture
from tests.support.checkout import ROOT
from tests.support.waiting import HANG_S
from tests.unit.chat.pseudo_terminal import PseudoTerminal

NAME = "chat-in-a-terminal"
SCORE = """
import json, os, pathlib, time
from azureml_inference_server_http.api.aml_request import rawhttp
from azureml_inference_server_http.api.aml_response import AMLResponse

CONTEXT = 300
SLOT = os.environ["SLOT"]
SIGNS = pathlib.Path(os.environ["SIGNS"])

def init():
    pass

def events(words, held):
    for word in words:
        yield "data: " + json.dumps({"choices": [{"delta": {"content": word}}]}) + "\\n\\n"
        time.sleep(0.05)
        while held and not (SIGNS / "go").exists():
            time.sleep(0.01)
    yield "data: " + json.dumps({"choices": [{"delta": {}, "finish_reason": "stop"}]}) + "\\n\\n"
    usage = {"prompt_tokens": 9, "completion_tokens": len(words)}
    yield "data: " + json.dumps({"choices": [], "usage": usage}) + "\\n\\n"
    yield "data: [DONE]\\n\\n"

def broken():
    yield "data: " + json.dumps({"choices": [{"delta": {"content": "half an"}}]}) + "\\n\\n"

@rawhttp
def run(request):
    body = json.loads(request.get_data())
    messages = body["input_data"]["input_string"]
    parameters = body["input_data"]["parameters"]
    question = messages[-1]["content"]
    size = sum(len(message["content"]) for message in messages)
    if size > CONTEXT:
        says = f"conversation 0 has {size} tokens; the model's context of {CONTEXT} leaves no room for an answer"
        return AMLResponse({"error": {"code": "BadRequest", "message": says}}, 400, json_str=True)
    streams = "text/event-stream" in request.headers.get("Accept", "")
    if question == "fail":
        raise ValueError("as you wish")
    if question == "slow":
        (SIGNS / "asked").touch()
        time.sleep(1e6)
    if question.startswith("tell") and streams:
        kind = {"Content-Type": "text/event-stream"}
        if question == "tell half":
            return AMLResponse(broken(), 200, kind)
        words = [f"word{number} " for number in range(10**6 if question == "tell long" else 4)]
        return AMLResponse(events(words, question == "tell held"), 200, kind)
    said = {
        "escape": "\\x1b]0;renamed\\x07 and [red]brackets[/red]",
        "who": SLOT,
        "parameters": json.dumps(parameters, sort_keys=True),
        "messages": json.dumps([[message["role"], message["content"]] for message in messages[:-1]]),
    }.get(question, f"you said {question!r}")
    usage = {"prompt_tokens": size, "completion_tokens": len(said)}
    reason = "length" if question == "cut" else "stop"
    return AMLResponse({"output": said, "usage": usage, "finish_reason": reason}, 200, json_str=True)
"""


@dataclass
class Chatting:
    """The environment of `mlops chat`, and the chats that a test has opened."""

    home: Path
    opened: list[PseudoTerminal] = field(default_factory=list)

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "mlops", "chat", "--endpoint", NAME, *arguments]

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "PROMPT_TOOLKIT_NO_CPR": "1", "TERM": "xterm", "COLUMNS": "80", "LINES": "40"}

    def piped(self, question: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*arguments),
            input=question,
            cwd=ROOT,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=HANG_S,
            check=False,
        )

    def open(self, *arguments: str, command: list[str] | None = None) -> PseudoTerminal:
        opened = PseudoTerminal(command or self.command(*arguments), cwd=ROOT, environment=self.environment)
        self.opened.append(opened)
        return opened


@pytest.fixture
def chatting(endpoint_home: Path) -> Iterator[Chatting]:
    """A chat with the endpoint."""
    chatting_ = Chatting(endpoint_home)
    yield chatting_
    for opened in chatting_.opened:
        opened.close()


@pytest.fixture
def chat(chatting: Chatting) -> Callable[..., PseudoTerminal]:
    """Opens `mlops chat` in a terminal of its own, ready to be typed into."""

    def open_(*arguments: str) -> PseudoTerminal:
        opened = chatting.open(*arguments)
        opened.expect("Ctrl-D ends")
        opened.expect("›")
        return opened

    return open_


@pytest.fixture(scope="module")
def endpoint_home(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:  # noqa: F811
    """The endpoint, live on blue, with a green slot beside; the workspace's home."""
    from mlops.azure import endpoints, models
    from mlops.azure.endpoints import DeploymentSpec
    from mlops.azure.session import connect
    from mlops.config.settings import load
    from mlops.core.console import Console
    from mlops.machines.probes import probes

    folder = tmp_path_factory.mktemp("chat")
    (folder / "code").mkdir()
    (folder / "code" / "score.py").write_text(SCORE, encoding="utf-8")
    (folder / "model").mkdir()
    (folder / "model" / "nothing").write_text("", encoding="utf-8")
    settings = load("local", ROOT / "mlops.yaml")
    session = connect(settings, Console(quiet=True))
    from azure.ai.ml.entities import Model

    session.ml.models.create_or_update(Model(path=str(folder / "model"), name="m", version="7", type="custom_model"))
    model = models.get(session, "m", "7")
    assert model is not None
    endpoints.create(session, NAME, description="", tags={})
    for slot in ("blue", "green"):
        endpoints.deploy(
            session,
            DeploymentSpec(
                name=slot,
                endpoint=NAME,
                model_id=model.id,
                instance_type="Standard_NC24ads_A100_v4",
                instance_count=1,
                environment=settings.root / settings.deployment.server.environment,
                code=folder / "code",
                scoring_script="score.py",
                max_concurrent_requests=8,
                request_timeout_ms=180_000,
                probes=probes(1000),
                variables={"SLOT": slot, "SIGNS": str(home), "GUNICORN_CMD_ARGS": "--worker-class gthread --threads 8"},
            ),
        )
    endpoints.set_traffic(session, NAME, {"blue": 100})
    return home
