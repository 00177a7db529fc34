"""GitHub as its own program `gh` sees it: environments, variables, and whom a job's statement names.

Everything goes by ``gh api``: the sub-commands for variables came only with gh 2.31, the API was there before. Values
go by stdin, so none stands in a list of processes.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from mlops.core.errors import AzureError, MlopsError, PreconditionError

TIMEOUT_S = 30.0
ENVIRONMENT = ":environment:"
REMOTE = re.compile(r"^(?:https?://(?:[^@/]+@)?|ssh://(?:[^@/]+@)?|[^@/]+@)(?P<host>[^/:]+)(?::\d+)?[/:](?P<path>.+)$")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*/[A-Za-z0-9._-]+")
"""``OWNER/NAME`` as GitHub allows it; nothing else becomes a part of a path or of a line of shell."""
STATUS = re.compile(r"\(HTTP (\d{3})\)")


class GitHubError(AzureError):
    """GitHub refused, or did not answer; the same exit code as a refusal of Azure's."""


class NotThereError(GitHubError):
    """GitHub has no such thing, or does not show it to this login."""


def installed() -> bool:
    """Whether `gh` can be called."""
    return shutil.which("gh") is not None


def repository(root: Path) -> str | None:
    """``OWNER/NAME`` of the repository that a checkout was cloned from; None where that is not GitHub."""
    repository_name = os.environ.get("GH_REPO") or os.environ.get("GITHUB_REPOSITORY")
    if repository_name:
        return _known("/".join(repository_name.split("/")[-2:]))
    command = ["git", "-C", str(root), "remote", "get-url", "origin"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return of_remote(done.stdout.strip()) if done.returncode == 0 else None


def of_remote(address: str) -> str | None:
    """``OWNER/NAME`` in the address of a remote; None where its host is not GitHub's."""
    match = REMOTE.match(address)
    if match is None or match["host"].lower() not in ("github.com", os.environ.get("GH_HOST", "github.com").lower()):
        return None
    return _known(match["path"].removesuffix("/").removesuffix(".git"))


def is_name(text: str) -> bool:
    """Whether it can be the name of a repository."""
    return NAME.fullmatch(text) is not None and text.partition("/")[2] not in (".", "..")


def _known(text: str) -> str | None:
    return text if is_name(text) else None


def variables(repository: str, environment: str) -> dict[str, str]:
    """What a job with this environment finds under ``vars``: the repository's variables, the environment's over them.

    Raises:
        NotThereError: there is no such repository or environment.
        MlopsError: `gh` is missing or not logged in; GitHub refused or did not answer.
    """
    return _listed(f"repos/{repository}/actions/variables") | variables_of(repository, environment)


def variables_of(repository: str, environment: str) -> dict[str, str]:
    """The variables of an environment alone."""
    return _listed(f"{_environment(repository, environment)}/variables")


def subject(repository: str, environment: str) -> str:
    """The subject of the statements that GitHub makes for a job of an environment.

    GitHub says how it begins (``sub_claim_prefix``, since 2026-04-23; repositories made, renamed or transferred since
    2026-07-15 have ids in it), which counts whatever ``use_immutable_subject`` beside it says.

    Raises:
        PreconditionError: `gh` is missing or not logged in, or the repository has a template of its own, for which
            GitHub tells only the keys.
        GitHubError: GitHub refused, or does not say.
    """
    document = api("GET", f"repos/{repository}/actions/oidc/customization/sub")
    how = f"pass --subject {environment}=SUBJECT; a login that fails in a job shows the subject that GitHub sent"
    if document.get("use_default") is False:
        keys = ", ".join(str(key) for key in document.get("include_claim_keys") or []) or "its organisation's"
        raise PreconditionError(
            f"the repository '{repository}' has subjects of its own making ({keys}), which GitHub does not show",
            hint=how,
        )
    prefix = str(document.get("sub_claim_prefix") or "")
    if not prefix:
        raise GitHubError(f"GitHub does not say how the subjects of '{repository}' begin", hint=how)
    return f"{prefix}{ENVIRONMENT}{environment.replace(':', '%3A')}"


def environments(repository: str) -> list[str]:
    """The environments of a repository."""
    pages = _pages(f"repos/{repository}/environments?per_page=100")
    return [str(item["name"]) for page in pages for item in page.get("environments", [])]


def ensure_environment(repository: str, environment: str) -> bool:
    """Create an environment unless it is there, and say whether it was made. What is there is not written again."""
    try:
        api("GET", _environment(repository, environment))
    except NotThereError:
        api("PUT", _environment(repository, environment), {})
        return True
    return False


def set_variable(
    repository: str, environment: str, name: str, value: str, *, known: Mapping[str, str] | None = None
) -> bool:
    """Set a variable of an environment, and say whether that changed anything; ``known`` are those that it has."""
    base = f"{_environment(repository, environment)}/variables"
    now = variables_of(repository, environment) if known is None else known
    if now.get(name) == value:
        return False
    if name in now:
        api("PATCH", f"{base}/{name}", {"name": name, "value": value})
    else:
        api("POST", base, {"name": name, "value": value})
    return True


def api(method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    """One call of GitHub's REST API by ``gh api``.

    Raises:
        PreconditionError: `gh` is missing, or not logged in.
        NotThereError: 404.
        GitHubError: any other refusal, or no answer in time.
    """
    output = _gh(method, path, [], None if body is None else json.dumps(body))
    return _object(path, output) if output.strip() else {}


def _environment(repository: str, environment: str) -> str:
    return f"repos/{repository}/environments/{quote(environment, safe='')}"


def _listed(path: str) -> dict[str, str]:
    pages = _pages(f"{path}?per_page=30")
    return {str(item["name"]): str(item["value"]) for page in pages for item in page.get("variables", [])}


def _pages(path: str) -> list[dict[str, Any]]:
    """Every page of a list; `gh` writes one document after the other."""
    output, pages, decoder = _gh("GET", path, ["--paginate"], None).strip(), [], json.JSONDecoder()
    while output:
        try:
            page, end = decoder.raw_decode(output)
        except ValueError:
            raise GitHubError(f"GitHub's answer to '{path}' is no JSON: '{output[:80]}'") from None
        pages.append(page)
        output = output[end:].lstrip()
    return pages


def _object(path: str, output: str) -> dict[str, Any]:
    try:
        document = json.loads(output)
    except ValueError:
        raise GitHubError(f"GitHub's answer to '{path}' is no JSON: '{output[:80]}'") from None
    return document if isinstance(document, dict) else {"value": document}


def _gh(method: str, path: str, options: list[str], stdin: str | None) -> str:
    command = ["gh", "api", "--method", method, *options, path]
    if stdin is not None:
        command += ["--input", "-"]
    quiet = {**os.environ, "GH_PROMPT_DISABLED": "1", "GH_NO_UPDATE_NOTIFIER": "1", "NO_COLOR": "1"}
    try:
        done = subprocess.run(
            command, input=stdin or "", capture_output=True, text=True, timeout=TIMEOUT_S, env=quiet, check=False
        )
    except FileNotFoundError:
        hint = "install it from cli.github.com, then gh auth login"
        raise PreconditionError("GitHub cannot be asked: the program 'gh' is not installed", hint=hint) from None
    except subprocess.TimeoutExpired:
        raise GitHubError(f"GitHub did not answer to '{path}' within {TIMEOUT_S:.0f} s", hint="try again") from None
    if done.returncode != 0:
        raise _refusal(method, path, done.returncode, done.stderr.strip() or done.stdout.strip())
    return done.stdout


def _refusal(method: str, path: str, code: int, output: str) -> MlopsError:
    line = next((line.strip() for line in output.splitlines() if line.strip()), f"gh ended with {code}")
    status = STATUS.search(output)
    if code == 4 or "gh auth login" in output or (status and status[1] == "401"):
        return PreconditionError(
            "GitHub cannot be asked: the program 'gh' is not logged in",
            details=[line],
            hint="gh auth login, with the scope repo; in a workflow set GH_TOKEN",
        )
    if status and status[1] == "404":
        hint = "check the name; a login without the right to see something is told that it is not there"
        return NotThereError(f"GitHub has no '{path}', or does not show it to this login", hint=hint)
    hint = "this needs a login that may administer the repository" if status and status[1] == "403" else "try again"
    return GitHubError(f"GitHub refused {method} '{path}': {line}", hint=hint)
