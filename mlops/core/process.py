"""Which process of which machine wrote a record, and whether it still lives."""

from __future__ import annotations

import getpass
import os
import platform
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

PROC = Path("/proc")


def actor() -> str:
    """Who is at work: the person behind a workflow's run, else user@host."""
    github_actor = os.environ.get("GITHUB_ACTOR")
    if github_actor:
        return github_actor
    try:
        user = getpass.getuser()
    except (OSError, KeyError, ImportError):  # a container's user may have no name
        user = str(os.getuid())
    return f"{user}@{platform.node() or 'unknown'}"


def this_process() -> dict[str, Any]:
    """This machine since its last start, its process ids, and this process.

    Two containers of one machine have the same kernel but ids of their own, hence ``pids``.
    """
    pid = os.getpid()
    return {"boot": _boot(), "pids": _namespace(), "pid": pid, "started": _started(pid)}


def is_alive(process: object) -> bool | None:
    """Whether a process that :func:`this_process` described still runs; None where that cannot be seen from here.

    A number that another process has got since does not count.
    """
    if not isinstance(process, Mapping) or not isinstance(process.get("pid"), int) or process["pid"] <= 0:
        return None
    if not process.get("boot") or process["boot"] != _boot() or process.get("pids") != _namespace():
        return None
    pid = process["pid"]
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        pass  # somebody else's process
    if not (PROC / "self/stat").exists():
        return True
    return _started(pid) is not None and process.get("started") in (None, _started(pid))


def _boot() -> str:
    try:
        return (PROC / "sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return f"{platform.node()}/{uuid.getnode():x}"


def _namespace() -> str | None:
    try:
        return str((PROC / "self/ns/pid").readlink())
    except OSError:
        return None


def _started(pid: int) -> int | None:
    """When a process began, in the kernel's ticks; None where there is none, or only what its parent has to bury."""
    try:
        stat = (PROC / str(pid) / "stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    state, *fields = stat.rpartition(")")[2].split()  # the name before may hold anything
    return None if state in ("Z", "X") else int(fields[18])
