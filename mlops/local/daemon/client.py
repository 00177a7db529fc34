"""Starting, stopping and asking the daemon from another process; imports little, as every command waits for it."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlops.local.daemon.environment import Environment, Outer, environment, offer_config_json
from mlops.local.state.config import Config
from mlops.local.state.layout import Layout
from mlops.local.state.private_files import read_json

START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 20.0
WRONG_ENVIRONMENT = 2
"""Exit code of the daemon and of ``ensure`` where a variable has a value that cannot be used."""


class DaemonFailed(Exception):
    """The daemon did not start; the message holds the end of its log."""


class WrongEnvironment(DaemonFailed):
    """A variable has a value that cannot be used; the message is a line for each."""


@dataclass(frozen=True, kw_only=True)
class Status:
    """What is known of the daemon of one state folder."""

    running: bool
    state_folder: str
    pid: int | None = None
    proxy: str | None = None
    tls_port: int | None = None
    started: str | None = None
    tracking: str | None = None


def status(layout: Layout | None = None, *, details: bool = False) -> Status:
    """Whether the daemon runs; a record left by a killed one counts as not running.

    Args:
        layout: the state folder, the checkout's by default.
        details: ask the daemon itself for what its record does not hold (the tracking server's url).
    """
    layout = layout or Layout.find()
    record = _record(layout)
    if record is None:
        return Status(running=False, state_folder=str(layout.root))
    tracking = None
    if details:
        with contextlib.suppress(OSError, DaemonFailed):
            tracking = request("status", layout=layout)["tracking"]
    return Status(
        running=True,
        state_folder=str(layout.root),
        pid=record["pid"],
        proxy=f"http://127.0.0.1:{record['proxy_port']}",
        tls_port=record["tls_port"],
        started=record["started"],
        tracking=tracking,
    )


def start(layout: Layout | None = None) -> Status:
    """Start the daemon unless it runs; two who start at once meet the same one."""
    layout = layout or Layout.find()
    current = status(layout)
    if current.running:
        return current
    try:
        layout.root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DaemonFailed(f"The state folder '{layout.root}' cannot be written: {error.strerror}.") from error
    with _locked(layout):
        current = status(layout)
        if not current.running:
            _launch(layout)
            current = status(layout)
    return current


def env(layout: Layout | None = None) -> Environment:
    """The variables that lead a program to the workspace; starts the daemon if need be."""
    layout = layout or Layout.find()
    start(layout)
    record = _record(layout)
    credentials = read_json(layout.credentials)
    if record is None or credentials is None:
        raise DaemonFailed("The daemon ended while its environment was read.")
    return environment(layout, _config(record), proxy_port=record["proxy_port"], credentials=credentials)


def config(layout: Layout | None = None) -> Config:
    """The names and delays of the running daemon."""
    record = _record(layout or Layout.find())
    if record is None:
        raise DaemonFailed("The local workspace does not run.")
    return _config(record)


def stop(layout: Layout | None = None) -> bool:
    """Stop the daemon and every process that it started; whether there was anything to stop."""
    layout = layout or Layout.find()
    if not layout.root.is_dir():
        return False
    with _locked(layout):
        return _stop(layout)


def reset(layout: Layout | None = None) -> bool:
    """Stop, and delete the state: resources, blobs, jobs, logs, keys. The cache stays. Whether there was any state."""
    layout = layout or Layout.find()
    if not layout.root.is_dir():
        return False
    with _locked(layout):
        _stop(layout)
        doomed = layout.root.with_name(f".{layout.root.name}.{os.getpid()}.deleted")
        layout.root.rename(doomed)
    shutil.rmtree(doomed, ignore_errors=True)
    return True


def logs(layout: Layout | None = None, *, tail: int = 100, follow: bool = False, name: str = "daemon") -> Iterator[str]:
    """The last lines of a log below ``logs/``, and with ``follow`` what comes, until interrupted."""
    path = (layout or Layout.find()).logs / f"{name}.log"
    if not path.is_file():
        return
    with path.open(encoding="utf-8", errors="replace") as file:
        lines = file.readlines()
        yield from (line.rstrip("\n") for line in lines[-tail:])
        while follow:
            line = file.readline()
            if line:
                yield line.rstrip("\n")
                continue
            time.sleep(0.2)
            if not path.exists() or not os.path.samestat(os.fstat(file.fileno()), path.stat()):
                break  # deleted, or put away because it was full
        else:
            return
    yield from logs(layout, tail=sys.maxsize, follow=follow, name=name)


def request(path: str, *, method: str = "GET", body: Any = None, layout: Layout | None = None) -> Any:
    """Call one of the daemon's own routes (below ``/__local/``) as its administrator."""
    import http.client
    import ssl

    layout = layout or Layout.find()
    record, credentials = _record(layout), read_json(layout.credentials)
    if record is None or credentials is None:
        raise DaemonFailed("The local workspace does not run.")
    context = ssl.create_default_context(cafile=str(layout.tls / "ca.pem"))
    connection = http.client.HTTPSConnection("127.0.0.1", record["proxy_port"], context=context, timeout=30)
    connection.set_tunnel("management.azure.com", 443)
    try:
        headers = {"Authorization": f"Bearer {credentials['admin_token']}", "Content-Type": "application/json"}
        connection.request(method, f"/__local/{path}", None if body is None else json.dumps(body), headers)
        response = connection.getresponse()
        raw = response.read()
        if response.status >= 400:
            raise DaemonFailed(f"The local workspace answered {response.status}: {raw.decode(errors='replace')}")
        return json.loads(raw) if raw else None
    finally:
        connection.close()


# -- the process ---------------------------------------------------------------------------------------------------


def _record(layout: Layout) -> dict[str, Any] | None:
    """What the running daemon wrote of itself."""
    record = _process(layout)
    return record if record is not None and _answers(record["proxy_port"]) else None


def _config(record: dict[str, Any]) -> Config:
    """The names and delays that the running daemon was started with."""
    return Config(**record.get("config", {}))


def _process(layout: Layout) -> dict[str, Any] | None:
    """The same of one that may be about to end."""
    record = read_json(layout.daemon)
    if record is None:
        return None
    from mlops.local.state import processes

    return record if processes.alive(record["pid"], record["create_time"]) else None


def _answers(port: int) -> bool:
    """Whether the proxy is there; a process that was killed goes on existing for a moment without it."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=2) as connection:
            connection.sendall(b"GET / HTTP/1.0\r\n\r\n")
            return bool(connection.recv(1))
    except TimeoutError:
        return True  # busy, not gone
    except OSError:
        return False


@contextlib.contextmanager
def _locked(layout: Layout) -> Iterator[None]:
    """Only one starts or stops the daemon of a state folder at a time."""
    path = layout.root.with_name(f".{layout.root.name}.lock")
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _launch(layout: Layout) -> None:
    from mlops.local.state.processes import MARK

    layout.logs.mkdir(parents=True, exist_ok=True)
    log = layout.logs / "daemon.log"
    environ = {**os.environ, MARK: str(layout.root), "PYTHONUNBUFFERED": "1"}
    outer = Outer.read()
    environ["MLOPS_UPSTREAM_PROXY"] = outer.proxy or ""
    environ["MLOPS_UPSTREAM_NO_PROXY"] = outer.no_proxy
    environ["MLOPS_UPSTREAM_CA_BUNDLE"] = outer.bundle or ""
    for name in ("PYTHONDONTWRITEBYTECODE", "AZURE_CLIENT_SECRET"):
        environ.pop(name, None)
    with log.open("ab") as file:
        start = file.tell()
        process = subprocess.Popen(
            [sys.executable, "-m", "mlops.local.daemon", "serve"],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            cwd=Path(__file__).resolve().parents[3],
            env=environ,
            start_new_session=True,
        )
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        record = _record(layout)
        if record is not None and record["pid"] == process.pid:
            process.returncode = 0  # it is meant to outlive this process: no warning about that
            offer_config_json(layout, _config(record))
            return
        if process.poll() is not None:
            break
        time.sleep(0.02)
    else:
        process.kill()
        process.wait()
    lines = log.read_bytes()[start:].decode(errors="replace").splitlines()
    if process.returncode == WRONG_ENVIRONMENT:
        raise WrongEnvironment("\n".join(lines))
    tail = "\n".join(lines[-15:])
    raise DaemonFailed(f"{log} ends with:\n{tail}")


def _stop(layout: Layout) -> bool:
    import psutil

    from mlops.local.state import processes

    record = _process(layout)
    if record is not None:
        with contextlib.suppress(psutil.Error):
            processes.end([psutil.Process(record["pid"])], patience_s=STOP_TIMEOUT_S)
    survivors = processes.marked(layout.root)
    processes.end(survivors)
    layout.daemon.unlink(missing_ok=True)
    return record is not None or bool(survivors)
