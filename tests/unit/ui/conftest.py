"""A workspace with a training, two releases and hostile words in all of it, and `mlops ui` as a process of its own."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from mlops.azure import jobs
from mlops.core.resources import MODEL_TAG
from tests.integration.conftest import QUESTIONS, Bench, home, workbench
from tests.integration.test_reconcile import job_named
from tests.support.checkout import ROOT
from tests.support.waiting import HANG_S, until

if TYPE_CHECKING:
    from playwright.sync_api import Browser

__all__ = ["QUESTIONS", "ROOT", "home", "workbench"]

ON_GITHUB = "GITHUB_ACTIONS" in os.environ
"""Its runners have a browser."""
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
HOSTILE = "<script>window.hacked = true</script><img src='/nowhere' onerror='window.hacked = true'>"
SCORE = """
import json, os, pathlib, time
from azureml_inference_server_http.api.aml_response import AMLResponse

def wait_for(sign):
    while not (pathlib.Path("SIGNS") / sign).exists():
        time.sleep(0.02)

def init():
    global answers
    answers = json.loads(next(pathlib.Path(os.environ["AZUREML_MODEL_DIR"]).rglob("answers.json")).read_text())

def told():
    for word in ("one ", "two ", "three"):
        if word == "three":
            wait_for("three")
        yield "data: " + json.dumps({"choices": [{"delta": {"content": word}}]}) + "\\n\\n"
    yield "data: " + json.dumps({"choices": [{"delta": {}, "finish_reason": "stop"}]}) + "\\n\\n"
    yield "data: [DONE]\\n\\n"

def run(raw):
    messages = json.loads(raw)["input_data"]["input_string"]
    question = messages[-1]["content"]
    if question == "tell me":
        return AMLResponse(told(), 200, {"Content-Type": "text/event-stream"})
    if question == "how many?":
        text = f"{len(messages)} messages"
    elif question == "too much?":
        if len(messages) > 3:
            error = {"code": "BadRequest", "message": "the context is too long"}
            return AMLResponse({"error": error}, 400, json_str=True)
        text = f"{len(messages)} messages"
    elif question == "slowly":
        wait_for("enough")
        text = "slow"
    else:
        text = answers[question]
    usage = {"prompt_tokens": len(messages), "completion_tokens": len(text.split())}
    return {"output": text, "usage": usage, "finish_reason": "stop"}
"""
LOGGING = """
import mlflow
for step in range(1, 21):
    mlflow.log_metric("train_loss", 2.0 / step, step=step)
for step in (10, 20):
    mlflow.log_metric("eval_loss", 2.5 / step, step=step)
mlflow.log_metric("base_exact_match", 0.25)
mlflow.log_metric("tuned_exact_match", 0.75)
"""
MODEL = "printf 'flavors: {python_function: {loader_module: x}}\\n' > ${{outputs.model}}/MLmodel"


class Visitor(httpx.Client):
    """Who looks again where Azure takes longer than the page waits for it, as the page says."""

    def get(self, *arguments: Any, **options: Any) -> httpx.Response:
        def answer() -> httpx.Response | None:
            response = httpx.Client.get(self, *arguments, **options)
            is_html = response.headers.get("Content-Type", "").startswith("text/html")
            return None if is_html and "Azure has not answered for" in response.text else response

        final = until(answer, what="an answer of Azure's")
        assert final is not None
        return final


@dataclass
class Page:
    """`mlops ui` as it runs."""

    process: subprocess.Popen[str]
    document: dict[str, str]
    said: list[str] = field(default_factory=list)

    @property
    def base(self) -> str:
        return self.document["base_url"]

    @contextlib.contextmanager
    def client(self) -> Iterator[httpx.Client]:
        """A client that has opened the page."""
        with Visitor(base_url=self.base, timeout=HANG_S, trust_env=False) as client:
            assert client.get(self.document["url"]).status_code == 303
            yield client

    def end(self) -> int:
        """Ctrl-C; the exit code."""
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(HANG_S)


@contextlib.contextmanager
def serving(*arguments: str) -> Iterator[Page]:
    """Run the command until the end of the block."""
    command = [sys.executable, "-m", "mlops", *arguments, "--json", "--no-browser"]
    env = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    process = subprocess.Popen(command, cwd=ROOT, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stderr is not None
    output: list[str] = []
    errors = process.stderr
    listener = threading.Thread(target=lambda: output.extend(errors), daemon=True)
    listener.start()
    try:
        text = ""
        for line in process.stdout:
            text += line
            if line == "}\n":
                break
        assert text, "".join(output) or process.wait(HANG_S)
        yield Page(process, json.loads(text), output)
    finally:
        if process.poll() is None:
            process.kill()
        process.wait(HANG_S)
        listener.join(HANG_S)
        process.stdout.close()
        errors.close()


@dataclass
class Story:
    """What the page has to show: the workspace, its training job, and both versions."""

    bench: Bench
    job: str
    versions: tuple[str, str]


@pytest.fixture(scope="module")
def story(workbench: Bench) -> Story:
    """A training with losses, registered and live in blue; a second version waits in green."""
    from mlops.rollout.deploy import deploy
    from mlops.rollout.rollback import rollback
    from mlops.training import register

    bench = workbench
    score = SCORE.replace("SIGNS", str(bench.folder))
    (bench.settings.deployment.code / "score.py").write_text(score, encoding="utf-8")
    logging = bench.folder / "logging"
    logging.mkdir()
    (logging / "losses.py").write_text(LOGGING, encoding="utf-8")
    answers = {**QUESTIONS, "who?": "the first", "mark up": HOSTILE}
    job = train(bench, logging, answers)
    first = register.register(bench.session, bench.settings, job, accept=f"good enough {HOSTILE}").model
    deploy(bench.session, bench.settings, first, test_rows=bench.rows)
    second = bench.model("2", {**answers, "who?": "the second"})
    deploy(bench.session, bench.settings, second, test_rows=bench.rows, skip_gate=f"because {HOSTILE}")
    rollback(bench.session, bench.settings, version=first, reason="the first again")
    return Story(bench=bench, job=job, versions=(first.version, "2"))


def train(bench: Bench, code: Path, answers: dict[str, str]) -> str:
    """A training as this repository submits it, of one step that logs what a real one does; its tags are hostile."""
    line = f"{sys.executable} losses.py && {MODEL} && cp answers.json ${{{{outputs.model}}}}/answers.json"
    (code / "answers.json").write_text(json.dumps(answers), encoding="utf-8")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from azure.ai.ml import Input, Output, command, dsl

        document = command(
            name="finetune",
            command=line,
            environment="azureml:not-built-here:1",
            code=str(code),
            inputs={"learning_rate": Input(type="number"), "huggingface_id": Input(type="string")},
            outputs={"model": Output(type="mlflow_model")},
        )

        @dsl.pipeline()  # type: ignore[untyped-decorator]
        def pipeline() -> dict[str, Any]:
            return {jobs.OUTPUT: document(learning_rate=0.007, huggingface_id=HOSTILE).outputs.model}

        job = pipeline()
        job.settings.default_compute = "serverless"
        job.tags = {
            "managed-by": "mlops",
            MODEL_TAG: bench.settings.model.name,
            "reason": HOSTILE,
            "commit": "0123abcd",
            "data-hash": "feed0123",
            "run-url": "javascript:alert(1)",
        }
        name = str(bench.session.ml.jobs.create_or_update(job, experiment_name=bench.settings.experiment).name)
    until(lambda: not job_named(bench, name).is_running, what=f"the end of {name}", every_s=0.1)
    assert job_named(bench, name).is_completed, jobs.log_tail(bench.session, name, lines=20)
    return name


@pytest.fixture(scope="module")
def ui(story: Story) -> Iterator[Page]:
    """The page of that workspace."""
    with serving("local", "ui") as page:
        yield page


@pytest.fixture(scope="module")
def browser(ui: Page) -> Iterator[Browser]:
    """A real browser, without a window; after the page, since no event loop can begin in this thread beside it."""
    executable = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if executable is None:
        if ON_GITHUB:
            pytest.fail(f"no browser: {' or '.join(BROWSERS)}")
        pytest.skip(f"no browser: {' or '.join(BROWSERS)}")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        # chromium has none for root, and none where the kernel forbids what it is made of
        sandbox = [] if os.geteuid() and not ON_GITHUB else ["--no-sandbox"]
        chromium = playwright.chromium.launch(
            executable_path=executable, args=[*sandbox, "--disable-dev-shm-usage"], timeout=1000 * HANG_S
        )
        yield chromium
        chromium.close()
