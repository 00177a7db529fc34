"""Finding the processes of one workspace, and ending them.

The daemon and all that it starts carry ``MLOPS_LOCAL_STATE`` in their environment, naming the state folder. A process
id alone proves nothing, as ids are used again; with its creation time it does.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Sequence
from pathlib import Path

import psutil

MARK = "MLOPS_LOCAL_STATE"
SAME_S = 2.0
"""How far two readings of one process's creation time may differ (where it comes from the wall clock)."""


def alive(pid: int, created: float) -> bool:
    """Whether the very process that :func:`create_time` was asked about still runs."""
    try:
        return abs(create_time(pid) - created) < SAME_S and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def create_time(pid: int) -> float:
    """When a process began: seconds since the machine's start on Linux, since the epoch elsewhere.

    On Linux a process's time since the epoch changes when the wall clock is set, which laptops do after a sleep.
    """
    stat = Path(f"/proc/{pid}/stat")
    try:
        fields = stat.read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
    except FileNotFoundError as error:
        if Path("/proc/self/stat").exists():
            raise psutil.NoSuchProcess(pid) from error
        return float(psutil.Process(pid).create_time())
    return int(fields[19]) / os.sysconf("SC_CLK_TCK")


def is_ours(pid: int) -> bool:
    """Whether a process runs under this user's name and is neither this one nor an ancestor of it."""
    try:
        spared = {os.getpid(), *(parent.pid for parent in psutil.Process().parents())}
        return pid > 1 and pid not in spared and psutil.Process(pid).uids().real == os.getuid()
    except psutil.Error:
        return False


def marked(state: Path) -> list[psutil.Process]:
    """The running processes of a workspace, this one and its ancestors left out."""
    matching = []
    spared = {os.getpid(), *(parent.pid for parent in psutil.Process().parents())}
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.pid in spared or process.status() == psutil.STATUS_ZOMBIE:
                continue
            if process.environ().get(MARK) == str(state):
                matching.append(process)
    return matching


def end(processes: Sequence[psutil.Process], *, patience_s: float = 5.0) -> None:
    """Ask them to end, then make them; returns when they are gone."""
    for signal, wait_s in (("terminate", patience_s), ("kill", 5.0)):
        for process in processes:
            with contextlib.suppress(psutil.Error):
                getattr(process, signal)()
        deadline = time.monotonic() + wait_s
        while processes := [process for process in processes if _runs(process)]:
            if time.monotonic() > deadline:
                break
            time.sleep(0.02)


def _runs(process: psutil.Process) -> bool:
    """A process that ended may stay as a zombie until its parent asks, which init may do late."""
    try:
        if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
            return True
        with contextlib.suppress(ChildProcessError):
            os.waitpid(process.pid, os.WNOHANG)
    except psutil.Error:
        pass
    return False
