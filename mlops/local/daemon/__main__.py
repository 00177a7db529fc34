"""The daemon's process: ``python -m mlops.local.daemon serve``, and ``… ensure`` for those who need it running.

``ensure`` starts the daemon unless it runs and prints ``{"env": {…}}``: the variables to set, null for those to unset.
"""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio
    from pathlib import Path

    from mlops.local.daemon.variables import Variables
    from mlops.local.state.layout import Layout


WATCH_S = 1.0


def main(arguments: list[str]) -> int:
    """Serve until a signal, or make sure that another process does."""
    command = arguments[0] if arguments else "serve"
    if command == "ensure":
        return _ensure()
    if command == "serve":
        return _serve()
    sys.stderr.write("usage: python -m mlops.local.daemon [serve | ensure]\n")
    return 2


def _ensure() -> int:
    from mlops.local.daemon import client

    try:
        sys.stdout.write(json.dumps({"env": client.env()}) + "\n")
    except client.DaemonFailed as error:
        sys.stderr.write(f"{error}\n")
        return client.WRONG_ENVIRONMENT if isinstance(error, client.WrongEnvironment) else 1
    return 0


def _serve() -> int:
    import os

    import uvloop

    from mlops.local.daemon import client, variables
    from mlops.local.state.layout import Layout

    try:
        given = variables.read()
    except variables.WrongVariable as error:
        sys.stderr.write(f"{error}\n")
        return client.WRONG_ENVIRONMENT
    os.umask(0o077)
    layout = Layout.find()
    layout.root.mkdir(parents=True, exist_ok=True)
    layout.root.chmod(0o700)
    _configure_logging(layout.logs)
    with (layout.root / "daemon.lock").open("w") as lock:
        if not _lock(lock.fileno()):
            sys.stderr.write(f"another daemon serves {layout.root}\n")
            return 3
        uvloop.run(_run(layout, given))
    return 0


def _lock(handle: int, *, patience_s: float = 10.0) -> bool:
    """Hold the state folder for as long as this process lives; the one before may need a moment to be gone."""
    import fcntl
    import time

    deadline = time.monotonic() + patience_s
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.02)
        else:
            return True


async def _run(layout: Layout, variables: Variables) -> None:
    import asyncio
    import contextlib
    import logging
    import os
    import signal
    from dataclasses import asdict
    from datetime import UTC, datetime

    from mlops.local.daemon.environment import PROXY_VARIABLES, Outer
    from mlops.local.daemon.proxy import Upstream
    from mlops.local.daemon.server import Server
    from mlops.local.state import processes
    from mlops.local.state.private_files import read_json, write_private_json

    outer = Outer.read()
    for name in PROXY_VARIABLES:
        os.environ.pop(name, None)  # they may hold a password, and no child of the daemon calls out
    places = layout.root / "ports.json"
    before = read_json(places) or {}
    server = Server(layout, variables, Upstream(outer.proxy, outer.no_proxy), outer_bundle=outer.bundle)
    await server.start(proxy_port=int(before.get("proxy_port", 0)))
    done = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, done.set)
    with contextlib.suppress(ValueError):
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
    record = {
        "pid": os.getpid(),
        "create_time": processes.create_time(os.getpid()),
        "proxy_port": server.proxy_port,
        "tls_port": server.tls_port,
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "config": asdict(server.workspace.config),
    }
    write_private_json(places, {"proxy_port": server.proxy_port})  # the next daemon takes the same: shells keep it
    write_private_json(layout.daemon, record)
    watching = asyncio.create_task(_watch(layout.daemon, done))
    await done.wait()
    watching.cancel()
    deleted = not layout.daemon.exists()
    try:
        await server.stop()
        layout.daemon.unlink(missing_ok=True)
    finally:
        if deleted:
            processes.end(processes.marked(layout.root))
        logging.shutdown()
        os._exit(0)  # a thread that waits for a program would hold an orderly exit up; ``stop`` ends that program next


async def _watch(record: Path, done: asyncio.Event) -> None:
    """End a daemon whose folder was deleted: nobody can find it any more, and what it starts would pile up."""
    import asyncio
    import logging

    while record.exists():
        await asyncio.sleep(WATCH_S)
    logging.getLogger(__name__).warning("'%s' was deleted; the daemon ends", record)
    done.set()


def _configure_logging(folder: Path) -> None:
    import logging
    from logging.handlers import RotatingFileHandler

    folder.mkdir(parents=True, exist_ok=True)
    plain = logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s")
    handler = RotatingFileHandler(folder / "daemon.log", maxBytes=10_000_000, backupCount=2, encoding="utf-8")
    handler.setFormatter(plain)
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    requests = RotatingFileHandler(folder / "requests.log", maxBytes=10_000_000, backupCount=2, encoding="utf-8")
    requests.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    logger = logging.getLogger("mlops.local.requests")
    logger.propagate = False
    logger.addHandler(requests)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
