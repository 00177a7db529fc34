"""An endpoint of a test's own, over real HTTP: answers as it is told, and remembers what it was asked."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from mlops.scoring.client import SLOT_HEADER, Scorer


@dataclass
class Reply:
    """What is answered: a body (JSON unless it is text), its status and headers."""

    body: Any = None
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class Asked:
    """One request as it came, and how many were under way with it."""

    slot: str | None
    question: str
    headers: dict[str, str]
    concurrent: int
    connection: tuple[str, int]


Answering = Callable[[Asked], Reply]


@dataclass
class Endpoint:
    scorer: Scorer
    asked: list[Asked] = field(default_factory=list)


@contextlib.contextmanager
def answering(reply: Answering, **scorer: Any) -> Iterator[Endpoint]:
    """Serve ``reply`` until the end of the block."""
    lock = threading.Lock()
    concurrent = 0
    endpoint: Endpoint

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_POST(self) -> None:
            nonlocal concurrent
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            question = body["input_data"]["input_string"][-1]["content"]
            with lock:
                concurrent += 1
                asked = Asked(
                    self.headers.get(SLOT_HEADER), question, dict(self.headers), concurrent, self.client_address
                )
                endpoint.asked.append(asked)
            try:
                response = reply(asked)
            finally:
                with lock:
                    concurrent -= 1
            raw = response.body.encode() if isinstance(response.body, str) else json.dumps(response.body).encode()
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                self.send_response(response.status)
                for name, value in {"Content-Length": str(len(raw)), **response.headers}.items():
                    self.send_header(name, value)
                if asked.slot and SLOT_HEADER not in response.headers:
                    self.send_header(SLOT_HEADER, asked.slot)
                self.end_headers()
                self.wfile.write(raw)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    url = f"http://127.0.0.1:{server.server_address[1]}/score"
    endpoint = Endpoint(Scorer(url=url, key="s3cret-key", **scorer))
    try:
        yield endpoint
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
