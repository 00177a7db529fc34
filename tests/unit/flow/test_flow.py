"""The Prompt flow for real: its own interpreter, its own commands, an endpoint behind real HTTPS."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from mlops.azure import endpoints, management
from mlops.azure.connections import project_id
from mlops.azure.session import Session, connect
from mlops.cli import main
from mlops.config.settings import load
from mlops.core.console import Console
from mlops.core.errors import PreconditionError
from mlops.flow import Connection, Environment, connect_azure, connect_local, connection_of
from mlops.flow.environment import FlowFailed
from tests.support.checkout import ROOT
from tests.support.waiting import HANG_S, until
from tests.unit.chat.conftest import NAME

pytestmark = [pytest.mark.slow]


@pytest.fixture(scope="module")
def session(home: Path) -> Session:
    return connect(load("local", ROOT / "mlops.yaml"), Console(quiet=True))


@pytest.fixture
def connected(environment: Environment, session: Session) -> Environment:
    connect_local(environment, connection_of(session, endpoint=NAME))
    return environment


def pf(environment: Environment, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    """Prompt flow's own command, told what `mlops flow env` prints."""
    variables = {**os.environ, **environment.variables(), **more}
    variables.pop("PYTHONDONTWRITEBYTECODE", None)
    return subprocess.run(
        [environment.pf, *arguments], env=variables, capture_output=True, text=True, timeout=HANG_S, check=False
    )


def asked(environment: Environment, question: str, history: list[dict[str, object]] | None = None) -> str:
    answer = environment.run(
        "ask.py", {"flow": str(environment.copy()), "question": question, "history": history or []}, timeout_s=HANG_S
    )
    return str(answer["answer"])


def test_pf_flow_test_asks_the_endpoint(connected: Environment) -> None:
    done = pf(connected, "flow", "test", "--flow", str(connected.copy()), "--inputs", "input_data=hello")
    assert done.returncode == 0, done.stderr
    assert '"answer": "you said \'hello\'"' in done.stdout
    assert "\n\n" not in done.stderr


def test_the_history_goes_along_as_messages_and_the_endpoints_errors_come_out_readable(connected: Environment) -> None:
    turns: list[dict[str, object]] = [
        {"inputs": {"input_data": "one"}, "outputs": {"answer": "two"}},
        {"inputs": {"input_data": "failed"}, "outputs": {}},
    ]
    assert asked(connected, "messages", turns) == '[["user", "one"], ["assistant", "two"]]'
    assert json.loads(asked(connected, "parameters")) == {"max_new_tokens": 128, "temperature": 0.7}
    with pytest.raises(FlowFailed, match=r"^'https://.*/score' answered HTTP 424: ") as caught:
        asked(connected, "fail")
    assert "Traceback" not in caught.value.message
    with pytest.raises(FlowFailed, match="conversation 0 has 400 tokens; the model's context of 300"):
        asked(connected, "x" * 400)
    with pytest.raises(FlowFailed, match="the question is empty"):
        asked(connected, " ")


def test_a_changed_key_an_endpoint_that_is_gone_and_one_that_dawdles(
    environment: Environment, session: Session
) -> None:
    right = connection_of(session, endpoint=NAME)
    connect_local(environment, Connection(name=right.name, endpoint=right.endpoint, key="wrong"))
    with pytest.raises(FlowFailed, match=r"HTTP 401: .*mlops flow connect takes the new one"):
        asked(environment, "hello")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        connect_local(environment, Connection(name=right.name, endpoint=f"http://127.0.0.1:{port}/score", key="k"))
        flow = environment.copy() / "flow.dag.yaml"
        flow.write_text(flow.read_text().replace("timeout_s: 90", "timeout_s: 0.5"))
        with pytest.raises(FlowFailed, match=r"no answer from .* within 0\.5 s"):
            environment.run("ask.py", {"flow": str(flow.parent), "question": "x", "history": []}, timeout_s=HANG_S)
    with pytest.raises(FlowFailed, match="was not reached: ConnectionError"):
        asked(environment, "hello")


def test_the_key_is_in_no_file_as_it_is_and_the_store_is_the_users_alone(
    connected: Environment, session: Session
) -> None:
    key = endpoints.key(session, NAME)
    assert stat.S_IMODE(connected.home.stat().st_mode) == 0o700
    assert stat.S_IMODE((connected.home / "keyring.json").stat().st_mode) == 0o600
    for file in connected.home.rglob("*"):
        assert not file.is_file() or key.encode() not in file.read_bytes(), file
    with contextlib.closing(sqlite3.connect(connected.home / "pf.sqlite")) as store:
        assert "chat-endpoint" in str(store.execute("select * from connection").fetchall())
    assert key not in repr(connection_of(session, endpoint=NAME))


@contextlib.contextmanager
def watching() -> Iterator[tuple[tuple[str, int], list[str]]]:
    """A proxy that refuses everything and remembers what it was asked for; its address."""
    hosts: list[str] = []
    listener = socket.create_server(("127.0.0.1", 0))

    def watch() -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = listener.accept()
                with client:
                    hosts.append(client.recv(4096).split(b"\r\n")[0].decode("latin-1"))

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield listener.getsockname(), hosts
    finally:
        listener.close()


def marked(mark: dict[str, str]) -> list[psutil.Process]:
    """Processes that run with these variables."""
    labels = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if mark.items() <= process.environ().items():
                labels.append(process)
    return labels


def test_nothing_is_asked_of_anybody_but_the_endpoint(connected: Environment, session: Session) -> None:
    with watching() as (listening, hosts):
        proxy = f"http://127.0.0.1:{listening[1]}"
        proxies = dict.fromkeys(("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY"), proxy)
        mark = {"MLOPS_TEST_MARK": proxy}
        arguments = ("flow", "test", "--flow", str(connected.copy()), "--inputs", "input_data=hello")
        done = pf(connected, *arguments, **proxies, **mark)
        assert "was not reached" in done.stdout
        until(lambda: not marked(mark), what="the end of what the command has started")
        with socket.create_connection(listening) as last:
            last.sendall(b"nothing more\r\n")
            until(lambda: "nothing more" in hosts)
        hosts.remove("nothing more")
    host = connection_of(session, endpoint=NAME).endpoint.split("/")[2]
    assert set(hosts) == {f"CONNECT {host}:443 HTTP/1.1"} or set(hosts) == {f"CONNECT {host}:443 HTTP/1.0"}


def test_the_command_serves_the_flow_over_http(installed: None, endpoint_home: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = endpoint_home / "serve.log"
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [sys.executable, "-m", "mlops", "flow", "serve", "--port", str(port), "--endpoint", NAME],
            cwd=ROOT,
            stdout=stream,
            stderr=stream,
            start_new_session=True,
        )
    try:
        first = until(lambda: served(port, process, log), what="an answer of the flow", every_s=0.3)
        assert first == {"answer": "you said 'hello'"}
        history = [{"inputs": {"input_data": "hello"}, "outputs": first}]
        url = f"http://127.0.0.1:{port}/score"
        second = httpx.post(url, json={"input_data": "messages", "chat_history": history}, timeout=HANG_S)
        assert json.loads(second.json()["answer"]) == [["user", "hello"], ["assistant", "you said 'hello'"]]
        failed = httpx.post(url, json={"input_data": "fail", "chat_history": []}, timeout=HANG_S)
        assert failed.status_code >= 400
        assert "answered HTTP 424" in failed.json()["error"]["message"]
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGINT)
        try:
            process.wait(HANG_S)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    assert not (ROOT / "components" / "chat_flow" / ".promptflow").exists()


def served(port: int, process: subprocess.Popen[bytes], log: Path) -> object:
    """The first answer; None while nobody listens."""
    assert process.poll() is None, log.read_text()
    with contextlib.suppress(httpx.TransportError):
        payload = {"input_data": "hello", "chat_history": []}
        answer = httpx.post(f"http://127.0.0.1:{port}/score", json=payload, timeout=HANG_S)
        assert answer.status_code == 200, answer.text
        return answer.json()
    return None


def test_the_commands_connect_and_test(
    installed: None, endpoint_home: Path, capsys: pytest.CaptureFixture[str], session: Session
) -> None:
    assert main(["flow", "connect", "--endpoint", NAME]) == 0
    assert "chat-endpoint → https://" in capsys.readouterr().out
    assert main(["flow", "test", "hello", "--endpoint", NAME, "--json"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["answer"] == "you said 'hello'"
    assert endpoints.key(session, NAME) not in captured.out + captured.err
    assert main(["flow", "test", "fail", "--endpoint", NAME]) == 8
    assert "answered HTTP 424" in capsys.readouterr().err
    assert main(["flow", "connect", "--endpoint", "nowhere"]) == 3
    assert main(["flow", "connect", "--project", "p"]) == 2
    assert main(["flow", "env", "--json"]) == 0


def test_the_connection_in_a_project_on_azure(environment: Environment, session: Session) -> None:
    settings = session.settings
    with pytest.raises(PreconditionError, match="no project 'chats'"):
        connect_azure(session, settings, Console(quiet=True), project="chats", endpoint=NAME)
    hub, project = project_id(session, "hub"), project_id(session, "chats")
    around = management.get(session, project_id(session, session.ml.workspace_name), "2024-04-01")
    assert around is not None
    leans = {name: around["properties"][name] for name in ("storageAccount", "keyVault")}
    identity = {"type": "SystemAssigned"}
    body = {"location": around["location"], "identity": identity}
    management.put(session, hub, "2024-04-01", {**body, "kind": "Hub", "properties": leans})
    management.put(session, project, "2024-04-01", {**body, "kind": "Project", "properties": {"hubResourceId": hub}})
    for _ in range(2):
        connection = connect_azure(session, settings, Console(quiet=True), project="chats", endpoint=NAME)
    path = f"{project}/connections/{connection.name}"
    document = management.get(session, path, "2024-04-01")
    assert document is not None
    assert document["properties"]["metadata"]["endpoint"] == connection.endpoint
    assert connection.key not in json.dumps(document)
    reader = Path(__file__).with_name("read_connection.py")
    done = subprocess.run(
        [environment.python, reader, "chats", connection.name],
        env={**os.environ, **environment.variables()},
        capture_output=True,
        text=True,
        timeout=HANG_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-800:]
    assert json.loads(done.stdout.splitlines()[-1]) == {
        "kind": "CustomConnection",
        "configs": {"endpoint": connection.endpoint},
        "secrets": {"key": connection.key},
    }
