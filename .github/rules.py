"""What the workflow files promise and no general linter checks; shellcheck on every `run:` block.

    python .github/rules.py [ROOT]

Prints `file:line: what is wrong` and exits with 1, or says how much it has read.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

LINES = 5
"""Of shell in one step; more belongs into a function of mlops, where it can be tested."""
PINNED = re.compile(r"^[\w.-]+/[\w./-]+@[0-9a-f]{40}$")
VERSION = re.compile(r"@[0-9a-f]{40} # v\d+\.\d+\.\d+$")
OWN = "$/"
SHELLCHECK = Path(sys.executable).with_name("shellcheck")
LINE = "__line__"


class Numbered(yaml.SafeLoader):
    """Mappings that know the line they begin on; `on` stays a word (YAML 1.1 reads it as true)."""

    def construct_mapping(
        self,
        node: yaml.MappingNode,
        deep: bool = False,  # noqa: FBT001, FBT002 - the loader's own signature
    ) -> dict[Any, Any]:
        """As the base class does, with the line beside the keys."""
        return {**super().construct_mapping(node, deep=deep), LINE: node.start_mark.line + 1}


Numbered.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:bool" or first in "tTfF"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def problems(path: Path) -> Iterator[tuple[int, str]]:
    """The line and the words for each promise that a workflow or an action breaks."""
    text = path.read_text(encoding="utf-8")
    document = yaml.load(text, Loader=Numbered)  # noqa: S506 - a SafeLoader
    if "runs" in document:
        yield from of_steps(document["runs"]["steps"], "bash", in_action=True)
    else:
        yield from of_workflow(document)
    for number, line in enumerate(text.splitlines(), 1):
        if "uses:" in line and "@" in line and not VERSION.search(line):
            yield number, "the version of the pinned action is missing beside it: # v1.2.3"


def of_workflow(document: dict[str, Any]) -> Iterator[tuple[int, str]]:
    """Permissions, shell, jobs, inputs."""
    if named_permissions(document) != {}:
        yield 1, "`permissions: {}` is missing at the top: each job asks for what it needs"
    shell = document.get("defaults", {}).get("run", {}).get("shell")
    if shell != "bash":
        yield 1, "`defaults.run.shell: bash` is missing: without it a pipe hides the failure of its first command"
    for trigger in ("workflow_dispatch", "workflow_call"):
        for name, entry in ((document["on"].get(trigger) or {}).get("inputs") or {}).items():
            if name != LINE and not entry.get("description"):
                yield entry[LINE], f"the input '{name}' has no description"
    for name, job in document["jobs"].items():
        if name != LINE:
            yield from of_job(name, job, together="concurrency" in document, shell=shell)


def named_permissions(entry: dict[str, Any]) -> dict[str, str] | None:
    """The permissions that a workflow or a job names one by one; none for `read-all` and for silence."""
    permissions = entry.get("permissions")
    return {key: value for key, value in permissions.items() if key != LINE} if isinstance(permissions, dict) else None


def of_job(name: str, job: dict[str, Any], *, together: bool, shell: str | None) -> Iterator[tuple[int, str]]:
    """Its own permissions, a time limit, a concurrency group, one environment for Azure."""
    line = job[LINE]
    if named_permissions(job) is None:
        yield line, f"the job '{name}' does not name its permissions"
    if "uses" in job:
        if not str(job["uses"]).startswith(OWN):
            yield line, f"the job '{name}' calls '{job['uses']}': write {OWN}.github/workflows/…"
        return
    if "timeout-minutes" not in job:
        yield line, f"the job '{name}' has no timeout-minutes"
    if not together and "concurrency" not in job:
        yield line, f"the job '{name}' is in no concurrency group"
    azure = "AZURE_CLIENT_ID" in job.get("env", {})
    if azure != ("environment" in job) or azure != ((named_permissions(job) or {}).get("id-token") == "write"):
        yield line, f"the job '{name}' needs all of these or none: an environment, AZURE_…, `id-token: write`"
    yield from of_steps(job["steps"], shell, in_action=False)


def of_steps(steps: list[dict[str, Any]], shell: str | None, *, in_action: bool) -> Iterator[tuple[int, str]]:
    """A name, a pin, few lines of sound shell, no expression inside them."""
    for step in steps:
        line, name, uses = step[LINE], step.get("name", ""), str(step.get("uses", ""))
        if not name:
            yield line, "a step without a name"
        if uses and not uses.startswith(OWN) and not PINNED.match(uses):
            yield line, f"'{uses}' is not pinned by commit"
        if uses.startswith("actions/checkout@") and step.get("with", {}).get("persist-credentials") is not False:
            yield line, "`persist-credentials: false` is missing"
        if "run" not in step:
            continue
        if len(step["run"].strip().splitlines()) > LINES:
            yield line, f"'{name}' is longer than {LINES} lines of shell"
        if "${{" in step["run"]:
            yield line, f"'{name}' has an expression inside its shell: hand it over by env"
        if step.get("shell", shell if not in_action else None) != "bash":
            yield line, f"'{name}' does not run in bash"
        for finding in shellcheck(step["run"]):
            yield line, f"'{name}': {finding}"


def shellcheck(script: str) -> list[str]:
    """What shellcheck says of a script that GitHub runs with `bash -eo pipefail`."""
    done = subprocess.run(
        [SHELLCHECK, "--shell=bash", "--norc", "--format=gcc", "-"],
        input=f"set -eo pipefail\n{script}\n",
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode > 1:
        raise RuntimeError(f"shellcheck: {done.stderr}")
    return [line.split(":", 3)[3].strip() for line in done.stdout.splitlines()]


def main(root: Path) -> int:
    """Check the workflows and actions below a folder; 0 if nothing is wrong."""
    folder = root / ".github"
    files = sorted([*folder.glob("workflows/*.y*ml"), *folder.glob("actions/*/action.y*ml")])
    lines = [f"{path.relative_to(root)}:{line}: {text}" for path in files for line, text in problems(path)]
    sys.stdout.write("".join(f"{line}\n" for line in lines) or f"workflow rules: {len(files)} files, nothing wrong\n")
    return 1 if lines or not files else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parents[1]))
