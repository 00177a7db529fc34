"""A small `gh` for tests: answers ``gh api`` from a folder of JSON, keeps what is set, writes down each call."""

from __future__ import annotations

import json
import stat
import sys
from pathlib import Path
from typing import Any

PROGRAM = """#!{python}
import json, pathlib, sys

place = pathlib.Path({place!r})
state = json.loads((place / "state.json").read_text())
arguments = sys.argv[1:]
stdin = sys.stdin.read() if "--input" in arguments else ""
with (place / "calls.jsonl").open("a") as file:
    file.write(json.dumps({{"arguments": arguments, "stdin": stdin}}) + "\\n")

def refuse(status, code=1):
    print(json.dumps({{"message": "no"}}))
    print(f"gh: no (HTTP {{status}})", file=sys.stderr)
    raise SystemExit(code)

if state.get("logged_out"):
    print("To get started with GitHub CLI, please run:  gh auth login", file=sys.stderr)
    raise SystemExit(4)
if arguments[:2] == ["workflow", "run"]:
    raise SystemExit(0)
assert arguments[0] == "api", arguments
method = arguments[arguments.index("--method") + 1]
path = next(part for part in arguments[3:] if part.startswith("repos/")).partition("?")[0]
if state.get("forbidden") and method != "GET":
    refuse(403)
root = "repos/" + state["repository"]
if not path.startswith(root + "/"):
    refuse(404)
rest = path[len(root) + 1:].split("/")
body = json.loads(stdin) if stdin else None
environments = state["environments"]

def listed(values):
    for name, value in values.items() or [(None, None)]:  # one a page, so that pages are read
        shown = [] if name is None else [{{"name": name, "value": value}}]
        print(json.dumps({{"total_count": len(values), "variables": shown}}), end="")

def done(answer=None):
    if answer is not None:
        print(json.dumps(answer))
    (place / "state.json").write_text(json.dumps(state))
    raise SystemExit(0)

if rest == ["actions", "oidc", "customization", "sub"]:
    done(state["subject"])
if rest == ["actions", "variables"]:
    listed(state["variables"])
    done()
if rest == ["environments"]:
    done({{"environments": [{{"name": name}} for name in environments]}})
name = rest[1]
if rest[0] == "environments" and len(rest) == 2:
    if method == "PUT":
        environments.setdefault(name, {{}})
    if name not in environments:
        refuse(404)
    done({{"name": name}})
if name not in environments:
    refuse(404)
values = environments[name]
if method == "GET":
    listed(values)
elif method == "POST":
    if body["name"] in values:
        refuse(409)
    values[body["name"]] = body["value"]
elif method == "PATCH":
    assert rest[3] in values
    values[rest[3]] = body["value"]
done()
"""


class FakeGitHub:
    """What the program knows, and what it was asked."""

    def __init__(self, folder: Path, repository: str = "octo/chat") -> None:
        self.folder = folder
        (folder / "bin").mkdir(parents=True)
        program = folder / "bin" / "gh"
        program.write_text(PROGRAM.format(python=sys.executable, place=str(folder)), encoding="utf-8")
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
        self.write(
            repository=repository,
            environments={},
            variables={},
            subject={"use_default": True, "sub_claim_prefix": "repo:octo@11/chat@22"},
        )

    def write(self, **values: Any) -> None:
        """Change what it knows."""
        path = self.folder / "state.json"
        document = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        path.write_text(json.dumps({**document, **values}), encoding="utf-8")

    @property
    def state(self) -> dict[str, Any]:
        document: dict[str, Any] = json.loads((self.folder / "state.json").read_text(encoding="utf-8"))
        return document

    @property
    def calls(self) -> list[dict[str, Any]]:
        """Every call, the newest last."""
        path = self.folder / "calls.jsonl"
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []

    def changes(self) -> list[str]:
        """Method and path of the calls that change something."""
        lines = []
        for call in self.calls:
            arguments = call["arguments"]
            method = arguments[arguments.index("--method") + 1]
            if method != "GET":
                lines.append(f"{method} {next(part for part in arguments if part.startswith('repos/'))}")
        return lines
