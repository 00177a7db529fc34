"""A data set by its name: through `datasets`, from a hub of the test's own on loopback."""

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

from tests.support.checkout import ROOT
from tests.support.waiting import HANG_S

NAME = "someone/chats"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(BaseHTTPRequestHandler):
    """As much of the hub as `load_dataset` asks for: one data set with one commit."""

    files: dict[str, bytes] = {}  # noqa: RUF012 - filled by the fixture's subclass
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        """Silence."""

    def info(self, path: str) -> dict[str, Any]:
        content = self.files[path]
        return {"type": "file", "path": path, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}

    def reply(self, status: int, content: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def reply_json(self, value: Any) -> None:
        self.reply(200, json.dumps(value).encode(), Content_Type="application/json")

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        api, resolve = f"/api/datasets/{NAME}", f"/datasets/{NAME}/resolve/"
        if path == api or path.startswith(f"{api}/revision/"):
            siblings = [{"rfilename": name} for name in self.files]
            self.reply_json({"id": NAME, "sha": COMMIT, "siblings": siblings, "private": False, "tags": []})
        elif path.startswith(f"{api}/tree/"):
            inner = path.removeprefix(f"{api}/tree/").partition("/")[2]
            if inner == "data":
                self.reply_json([self.info(name) for name in self.files if name.startswith("data/")])
            else:
                self.reply_json([self.info("README.md"), {"type": "directory", "path": "data", "oid": "0" * 40}])
        elif path.startswith(resolve) and (name := path.removeprefix(resolve).partition("/")[2]) in self.files:
            content = self.files[name]
            tag = f'"{hashlib.sha1(content).hexdigest()}"'
            self.reply(200, content, ETag=tag, X_Repo_Commit=COMMIT, Accept_Ranges="none")
        else:
            self.reply(404, b"{}", X_Error_Code="RepoNotFound" if NAME not in path else "EntryNotFound")

    do_HEAD = do_GET  # noqa: N815

    def do_POST(self) -> None:
        paths = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["paths"]
        self.reply_json([self.info(name) for name in paths if name in self.files])


@pytest.fixture
def hub(many: Any, tmp_path: Path) -> Iterator[str]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    files = {}
    card = "---\nconfigs:\n- config_name: default\n  data_files:\n"
    for index, split in enumerate(("train_sft", "test_sft", "train_gen", "test_gen")):
        rows = many(40, start=40 * index, answers=split.endswith("sft"))
        name = f"data/{split}-00000-of-00001.parquet"
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
        files[name] = (tmp_path / "rows.parquet").read_bytes()
        card += f"  - split: {split}\n    path: data/{split}-*\n"
    files["README.md"] = (card + "---\n").encode()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Filled", (Hub,), {"files": files}))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def run(hub: str, tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    environment |= {"HF_ENDPOINT": hub, "HF_HOME": str(tmp_path / "hf"), "MLOPS_HOME": str(tmp_path / "home")}
    environment |= {"NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
    command = [sys.executable, "-m", "mlops", "data", "prepare", "--json", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=HANG_S)


def test_both_ways_from_the_hub(hub: str, tmp_path: Path) -> None:
    done = run(hub, tmp_path, "--dataset", NAME, "--percent", "50")
    assert done.returncode == 0, done.stderr
    manifest = json.loads(done.stdout)["manifest"]
    assert {entry["name"]: entry["rows"] for entry in manifest["files"]} == {
        f"{split}.jsonl": 20 for split in ("train_sft", "train_gen", "test_sft", "test_gen")
    }
    assert (manifest["dataset"], manifest["revision"]) == (NAME, COMMIT)
    assert json.loads(run(hub, tmp_path, "--dataset", NAME, "--percent", "50").stdout)["repeated"]
    cut = run(hub, tmp_path, "--dataset", NAME, "--percent", "100", "--way", "cut", "--revision", "main")
    assert cut.returncode == 0, cut.stderr
    rows = {entry["name"]: entry["rows"] for entry in json.loads(cut.stdout)["manifest"]["files"]}
    assert rows == {"train.jsonl": 32, "test.jsonl": 8}


def test_a_name_that_the_hub_does_not_know(hub: str, tmp_path: Path) -> None:
    done = run(hub, tmp_path, "--dataset", "someone/else")
    assert done.returncode == 3, done.stderr
    assert "someone/else" in json.loads(done.stdout)["error"]["message"]
    split = run(hub, tmp_path, "--dataset", NAME, "--way", "cut", "--train-split", "train")
    assert split.returncode == 3, split.stderr
    assert "Traceback" not in split.stderr
