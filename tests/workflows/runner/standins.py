"""The third-party actions that the files use, played on disk.

A stand-in does what the action does as far as a workflow can see it; an input that it does not know is an error.
What is not played: the network. `actions/setup-python` brings, beside the interpreter, the virtual environment that
the tests run in, with the marks by which `make` sees that there is nothing to install.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.virtual_environment import virtual_environment
from tests.workflows.runner.commands import Log
from tests.workflows.runner.files import Unknown
from tests.workflows.runner.record import Annotation

PINNED = re.compile(r"^[0-9a-f]{40}$")


@dataclass
class ActionContext:
    """Where an action works, and what it leaves."""

    workspace: Path
    scratch: Path
    artifacts: Path
    repository: Path
    sha: str
    token: str
    log: Log
    outputs: dict[str, str] = field(default_factory=dict)
    paths: list[str] = field(default_factory=list)

    def fails(self, message: str) -> bool:
        """End the step with an error."""
        self.log.annotations.append(Annotation("error", message))
        self.log.lines.append(f"Error: {message}")
        return False


def play(uses: str, inputs: Mapping[str, str], context: ActionContext) -> bool:
    """Run the stand-in of a pinned action; whether it succeeded.

    Raises:
        Unknown: there is no stand-in, or it does not know an input.
    """
    name, _, ref = uses.partition("@")
    if not PINNED.match(ref):
        raise Unknown(f"'{uses}' is not pinned by commit")
    if name not in ACTIONS:
        raise Unknown(f"the runner has no stand-in for the action '{name}'")
    action, names = ACTIONS[name]
    for each in inputs:
        if each not in names:
            raise Unknown(f"the stand-in for '{name}' does not know the input '{each}'")
    return action(inputs, context)


def checkout(inputs: Mapping[str, str], context: ActionContext) -> bool:
    """The commit's tracked files, with a .git of depth one."""
    command = [
        "git",
        "clone",
        "--quiet",
        "--no-local",
        "--no-checkout",
        str(context.repository),
        str(context.workspace),
    ]
    subprocess.run(command, check=True, capture_output=True)
    subprocess.run(
        ["git", "checkout", "--quiet", "--detach", inputs.get("ref") or context.sha],
        cwd=context.workspace,
        check=True,
        capture_output=True,
    )
    if inputs.get("persist-credentials", "true") != "false":
        with (context.workspace / ".git" / "config").open("a", encoding="utf-8") as config:
            config.write(f'[http "https://github.com/"]\n\textraheader = AUTHORIZATION: basic {context.token}\n')
    context.outputs |= {"commit": context.sha, "ref": inputs.get("ref", "")}
    return True


def setup_python(inputs: Mapping[str, str], context: ActionContext) -> bool:
    """The interpreter of the tests on the PATH (whatever version is asked for), and a finished virtual environment."""
    folder = context.scratch / "python"
    folder.mkdir(exist_ok=True)
    base = Path(getattr(sys, "_base_executable", sys.executable))
    for name in ("python", "python3"):
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(base)
    context.paths.append(str(folder))
    locks = inputs.get("cache-dependency-path", "").split()
    if inputs.get("cache") and not all((context.workspace / each).is_file() for each in locks):
        return context.fails(f"No file in {context.workspace} matched to {locks}")
    virtual_environment(context.workspace / ".venv")
    version = ".".join(map(str, sys.version_info[:3]))
    context.outputs |= {"python-version": version, "python-path": str(base), "cache-hit": "true"}
    return True


def upload_artifact(inputs: Mapping[str, str], context: ActionContext) -> bool:
    """Copy what the paths find; hidden files only when asked for; a name only once per run."""
    name = inputs.get("name", "artifact")
    target = context.artifacts / name
    files = _found(inputs["path"].splitlines(), context.workspace, hidden=inputs.get("include-hidden-files") == "true")
    if not files:
        message = f"No files were found with the provided path: {inputs['path']}. No artifacts will be uploaded."
        what = inputs.get("if-no-files-found", "warn")
        if what == "error":
            return context.fails(message)
        if what == "warn":
            context.log.annotations.append(Annotation("warning", message))
        return True
    if target.exists() and inputs.get("overwrite") != "true":
        return context.fails(f"Conflict: an artifact with this name already exists on the workflow run: {name}")
    shutil.rmtree(target, ignore_errors=True)
    for relative, path in files.items():
        (target / relative).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target / relative)
    digest = hashlib.sha256("".join(sorted(map(str, files))).encode()).hexdigest()
    context.outputs |= {
        "artifact-id": "1",
        "artifact-digest": digest,
        "artifact-url": f"https://github.com/artifact/{name}",
    }
    return True


def _found(lines: Iterable[str], workspace: Path, *, hidden: bool) -> dict[Path, Path]:
    """The files by their path in the artifact: relative to a single folder that was named, else to the workspace."""
    patterns = [line.strip() for line in lines if line.strip()]
    roots = []
    files: list[Path] = []
    for line in patterns:
        if line.startswith("!") or set(line) & set("*?["):
            raise Unknown(f"the stand-in for upload-artifact does not know the pattern '{line}'")
        root = (workspace / line).resolve()
        roots.append(root if root.is_dir() else root.parent)
        inner = sorted(root.rglob("*")) if root.is_dir() else [root]
        files += [path for path in inner if path.is_file() and (hidden or not _hidden(path, root))]
    top = roots[0] if len(set(roots)) == 1 else workspace.resolve()
    return {path.relative_to(top): path for path in files}


def _hidden(path: Path, root: Path) -> bool:
    """The action's glob passes over what is hidden, the folder that was named included."""
    return root.name.startswith(".") or any(part.startswith(".") for part in path.relative_to(root).parts)


def download_artifact(inputs: Mapping[str, str], context: ActionContext) -> bool:
    """Copy an artifact of this run into a folder."""
    source = context.artifacts / inputs["name"]
    if not source.is_dir():
        return context.fails(f"Unable to download artifact(s): Artifact not found for name: {inputs['name']}")
    target = context.workspace / inputs.get("path", ".")
    shutil.copytree(source, target, dirs_exist_ok=True)
    context.outputs["download-path"] = str(target)
    return True


Action = Callable[[Mapping[str, str], ActionContext], bool]
UPLOAD = (
    "name",
    "path",
    "if-no-files-found",
    "retention-days",
    "include-hidden-files",
    "overwrite",
    "compression-level",
)
ACTIONS: dict[str, tuple[Action, tuple[str, ...]]] = {
    "actions/checkout": (checkout, ("persist-credentials", "fetch-depth", "ref")),
    "actions/setup-python": (setup_python, ("python-version", "cache", "cache-dependency-path")),
    "actions/upload-artifact": (upload_artifact, UPLOAD),
    "actions/download-artifact": (download_artifact, ("name", "path")),
}
