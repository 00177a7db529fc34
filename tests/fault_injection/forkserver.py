"""Runs `mlops` commands as processes of their own, at the price of a fork: Azure's SDK is imported once, before.

    python -m tests.fault_injection.forkserver SOCKET PARENT

Each connection is one command: a line of JSON (``argv``, ``env``, ``log``), answered by the process's id; ``go`` starts
it, its last line is the exit code. A process that was killed says nothing more. This process has one thread and no
connection to anything, so that a child is what a fresh process would be.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import signal
import socket
import sys
import traceback
import warnings
from pathlib import Path
from typing import Any, BinaryIO

from tests.support.checkout import ROOT

NEEDED = (
    "mlops.cli.deploy",
    "mlops.cli.rollback",
    "mlops.rollout",
    "mlops.training.register",
    "mlops.data",
    "mlops.azure.session",
    "mlops.azure.endpoints",
    "mlops.azure.models",
    "azure.ai.ml",
    "azure.ai.ml.entities",
    "azure.identity",
    "azure.storage.blob",
    "httpx",
    "rich.progress",
    "uuid",
)


def warm_up(names: list[str]) -> None:
    """Import what the commands will need, as far as it can be imported."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in names:
            try:
                importlib.import_module(name)
            except Exception:
                continue
    gc.collect()
    gc.freeze()  # the children share what is here


def run(argv: list[str], env: dict[str, str], log: str) -> int:
    """One command in this process."""
    with Path(log).open("ab", buffering=0) as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.environ.update(env)
    os.chdir(ROOT)
    warnings.simplefilter("ignore")
    from mlops import cli
    from mlops.azure import session
    from mlops.gate import pictures

    # Left out: a process that would find out that the workspace runs and its variables are set; and the report's
    # pictures, which take as long as the rollout.
    vars(session)["enter_local_workspace"] = lambda: None
    vars(pictures)["draw"] = lambda *_: []
    try:
        return cli.main(argv)
    except BaseException:
        traceback.print_exc()
        return 1


def die_with_parent() -> None:
    """Let nothing run on when the tests are over; only Linux can say so."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def child(connection: socket.socket, stream: BinaryIO, request: dict[str, Any]) -> None:
    """Say the id, wait for ``go``, work, say the exit code."""
    for number in (signal.SIGCHLD, signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    os.setsid()
    die_with_parent()
    connection.sendall(f"{os.getpid()}\n".encode())
    if stream.readline() != b"go\n":
        os._exit(1)
    code = run(request["argv"], request["env"], request["log"])
    sys.stdout.flush()
    sys.stderr.flush()
    reply = {"code": code, "modules": sorted(sys.modules) if request.get("modules") else []}
    connection.sendall(json.dumps(reply).encode() + b"\n")
    os._exit(code)


def main() -> None:
    """Serve until the parent is gone."""
    sys.path.insert(0, str(ROOT))
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # no child is left as a zombie, which would look alive
    warm_up(list(NEEDED))
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    beside = f"{sys.argv[1]}~"
    listener.bind(beside)
    listener.listen(64)
    Path(beside).rename(sys.argv[1])  # whoever sees the socket can connect to it
    parent = int(sys.argv[2])
    listener.settimeout(2.0)
    while os.getppid() == parent:
        try:
            connection, _ = listener.accept()
        except TimeoutError:
            continue
        connection.settimeout(None)
        stream = connection.makefile("rb")
        request = json.loads(stream.readline())
        if "import" in request:
            warm_up(request["import"])
            connection.sendall(b"{}\n")
        elif os.fork() == 0:
            listener.close()
            child(connection, stream, request)
        stream.close()
        connection.close()


if __name__ == "__main__":
    main()
