"""Where a run comes from: the commit, the person, the workflow's address; tags of jobs and models."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

TAG_CHARACTERS = 256
"""Azure ML's limit of a tag's value."""


def tags(root: Path, *, reason: str = "") -> dict[str, str]:
    """What is known of this run; nothing is made up.

    Args:
        root: the checkout.
        reason: why it is run, in a person's words.
    """
    values = {
        "commit": os.environ.get("GITHUB_SHA") or _commit(root),
        "actor": os.environ.get("GITHUB_ACTOR", ""),
        "run-url": _run_url(),
        "ref": os.environ.get("GITHUB_REF_NAME", ""),
        "reason": " ".join(reason.split()),
    }
    return {key: value[:TAG_CHARACTERS] for key, value in values.items() if value}


def _run_url() -> str:
    values = [os.environ.get(f"GITHUB_{name}", "") for name in ("SERVER_URL", "REPOSITORY", "RUN_ID")]
    return f"{values[0]}/{values[1]}/actions/runs/{values[2]}" if all(values) else ""


def _commit(root: Path) -> str:
    """The checkout's commit, marked where files differ from it."""
    try:
        head = _git(root, "rev-parse", "HEAD")
        changed = _git(root, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):
        return ""
    return f"{head}-changed" if changed else head


def _git(root: Path, *arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=10, check=True)
    return done.stdout.strip()
