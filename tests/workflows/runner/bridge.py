"""GitHub's own parser and evaluator of workflow files: a Node process that answers JSON lines.

Its npm packages are pinned by `bridge/package-lock.json` and installed once below the cache folder.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.support.checkout import ROOT
from tests.support.waiting import HANG_S

SOURCE = Path(__file__).parent / "bridge"
FILES = ("package.json", "package-lock.json", "bridge.mjs")


class Missing(Exception):
    """Node or its packages cannot be had on this machine."""


class Refused(Exception):
    """GitHub's packages refuse an expression, or the runner lacks what it needs."""


def install() -> Path:
    """The folder with the packages and the bundle; made once per state of the files, by one process at a time."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        raise Missing("node and npm are not on the PATH")
    digest = hashlib.sha256(b"".join((SOURCE / name).read_bytes() for name in FILES)).hexdigest()[:16]
    cache = Path(os.environ.get("MLOPS_CACHE") or ROOT / ".mlops" / "cache") / "workflow-runner"
    folder = cache / digest
    with _locked(cache):
        if not (folder / "ready").exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            for name in FILES:
                shutil.copy(SOURCE / name, folder)
            _call(folder, "npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--prefer-offline")
            bundle = ("--bundle", "--platform=node", "--format=cjs", "--target=node20", "--outfile=bridge.cjs")
            _call(folder, "node", "node_modules/esbuild/bin/esbuild", "bridge.mjs", *bundle, "--log-level=warning")
            (folder / "ready").touch()
    return folder


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _call(folder: Path, *command: str) -> None:
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=HANG_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise Missing(f"{' '.join(command)} took longer than {HANG_S:g} s") from error
    if done.returncode:
        raise Missing(f"{' '.join(command)} ended with {done.returncode}: {done.stderr.strip()[-500:]}")


class Bridge:
    """The process; one request at a time."""

    def __init__(self, folder: Path) -> None:
        self._lock = threading.Lock()
        self._process = subprocess.Popen(
            ["node", str(folder / "bridge.cjs")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            encoding="utf-8",
        )

    def close(self) -> None:
        """End the process."""
        self._process.communicate(timeout=HANG_S)

    def parse(self, name: str, content: str, *, kind: str, others: Mapping[str, str]) -> dict[str, Any]:
        """The file as a tree (None where it cannot be read), and GitHub's errors."""
        return self._ask(op="parse", name=name, content=content, kind=kind, others=dict(others))  # type: ignore[no-any-return]

    def resolve(
        self, node: Any, contexts: Mapping[str, Any], *, status: Mapping[str, bool] | None = None, workspace: Path
    ) -> Any:
        """A tree with every expression in it replaced by its value."""
        return self._ask(
            op="resolve", node=node, contexts=dict(contexts), status=dict(status or {}), workspace=str(workspace)
        )

    def _ask(self, **request: Any) -> Any:
        with self._lock:
            assert self._process.stdin is not None
            assert self._process.stdout is not None
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        if not line:
            raise Refused("the bridge to GitHub's packages has ended")
        answer = json.loads(line)
        if "error" in answer:
            raise Refused(answer["error"])
        return answer["result"]


def text(value: Any) -> str:
    """A value as GitHub writes it into a string."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, (dict, list)):
        raise Refused(f"an object where text is expected: {value}")
    return str(value)
