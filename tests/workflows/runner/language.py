"""GitHub's language server: what an editor would underline in a workflow."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.waiting import HANG_S

SERVER = "node_modules/@actions/languageserver/dist/cli.bundle.cjs"


@dataclass(frozen=True)
class Diagnostic:
    """One finding."""

    path: str
    line: int
    message: str


class LanguageServer:
    """The server, unbundled, over its standard streams."""

    def __init__(self, packages: Path, root: Path) -> None:
        self._root = root
        self._number = 0
        self._process = subprocess.Popen(
            ["node", str(packages / SERVER), "--stdio"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        parameters: dict[str, Any] = {
            "processId": None,
            "rootUri": root.as_uri(),
            "capabilities": {},
            "initializationOptions": {},
        }
        self._send(id=0, method="initialize", params=parameters)
        while self._receive().get("id") != 0:
            pass
        self._send(method="initialized", params={})

    def close(self) -> None:
        """End the server."""
        self._process.terminate()
        self._process.communicate(timeout=HANG_S)

    def diagnose(self, paths: Iterable[str]) -> list[Diagnostic]:
        """All findings in files below the root."""
        waiting = {}
        for path in paths:
            self._number += 1
            uri = (self._root / path).as_uri()
            text = (self._root / path).read_text(encoding="utf-8")
            waiting[uri] = path
            document = {"uri": uri, "languageId": "yaml", "version": self._number, "text": text}
            self._send(method="textDocument/didOpen", params={"textDocument": document})
        diagnostics = []
        while waiting:
            message = self._receive()
            if message.get("method") == "textDocument/publishDiagnostics":
                path = waiting.pop(message["params"]["uri"])
                for each in message["params"]["diagnostics"]:
                    diagnostics.append(Diagnostic(path, each["range"]["start"]["line"] + 1, each["message"]))
            elif "id" in message and "method" in message:  # a question to the editor
                self._send(id=message["id"], result=None)
        return diagnostics

    def _send(self, **message: Any) -> None:
        body = json.dumps({"jsonrpc": "2.0", **message}).encode()
        assert self._process.stdin is not None
        self._process.stdin.write(b"Content-Length: %d\r\n\r\n%s" % (len(body), body))
        self._process.stdin.flush()

    def _receive(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        length = 0
        while header := self._process.stdout.readline().strip():
            name, _, value = header.partition(b":")
            if name.lower() == b"content-length":
                length = int(value)
        if not length:
            raise EOFError("the language server has ended")
        return json.loads(self._process.stdout.read(length))  # type: ignore[no-any-return]
