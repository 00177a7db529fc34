"""Checkpoints that survive what clusters do: a node is taken away at any moment, or a disk is full.

A checkpoint counts when its seal is there: a small file that is written last and moved into place, and that says
which files belong to the checkpoint and which settings made it. What has no seal, or lacks a file of that size, was
cut off while it was written, and is never gone on from.
"""

import errno
import json
import os
import re
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chat_completion.common.model_folder import write_json
from chat_completion.common.refusal import Refusal

SEAL = "complete.json"
EVERY_S = 900.0
"""Seconds between checkpoints, unless the environment's MLOPS_CHECKPOINT_S says otherwise: what a lost node costs."""

LOADED = (".safetensors", ".bin", ".pt", ".pth", ".json")
"""Files that a training goes on from: one that no seal knows may be taken for a part of the checkpoint."""

NAME = re.compile(r"checkpoint-(\d+)")
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
NO_ROOM_TEXTS = (
    "No space left on device",
    "Disk quota exceeded",
    "File too large",
    "PytorchStreamWriter failed writing",
    "inline_container.cc",
)


@dataclass(frozen=True)
class Checkpoint:
    """A whole checkpoint.

    Attributes:
        step: optimiser steps that it stands behind.
        resumable: whether the optimiser's state is in it, without which no training goes on as it was.
        made_by: the settings and data of the run that wrote it.
        unlogged_loss: the sum of the losses of the steps since `last_logged`, which no log line has told yet.
        last_logged: the step of the last log line before it.
        ended: whether the training was over with it, by its last step or by early stopping.
    """

    folder: Path
    step: int
    resumable: bool
    made_by: dict[str, Any]
    unlogged_loss: float
    last_logged: int
    ended: bool = False

    @property
    def processes(self) -> int:
        """How many processes wrote it: each leaves the state of its random draws."""
        return len([*self.folder.glob("rng_state*.pth")])


def list_checkpoints(folder: Path) -> list[tuple[int, Path]]:
    """The checkpoints below a folder, whole or not, the newest first."""
    checkpoints = [
        (int(match[1]), path) for path in folder.glob("checkpoint-*") if (match := NAME.fullmatch(path.name))
    ]
    return sorted(checkpoints, reverse=True)


def sizes(folder: Path) -> dict[str, int]:
    """The size of each file of a checkpoint, by its path below it. Hidden ones are the file system's own."""
    visible = (path for path in sorted(folder.rglob("*")) if path.name != SEAL and not path.name.startswith("."))
    return {path.relative_to(folder).as_posix(): path.stat().st_size for path in visible if path.is_file()}


def is_whole(folder: Path, files: Mapping[str, int]) -> bool:
    """Whether the files that a seal names are there in their sizes, and none that would be loaded with them."""
    paths = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.suffix in LOADED}
    return paths <= {*files, SEAL} and all((folder / name).stat().st_size == size for name, size in files.items())


def settle(folder: Path) -> None:
    """Waits until the disk has a checkpoint's files."""
    for path in folder.rglob("*"):
        if path.is_file():
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)


def unseal(folder: Path) -> None:
    """Takes the seal off, before files are changed: half a folder must not pass for a checkpoint."""
    (folder / SEAL).unlink(missing_ok=True)


def seal(
    folder: Path,
    *,
    resumable: bool,
    made_by: Mapping[str, Any],
    unlogged_loss: float,
    last_logged: int,
    ended: bool = False,
) -> None:
    """Declares a checkpoint whole; all of its files have to be there."""
    settle(folder)
    write_json(
        folder / SEAL,
        {
            "files": sizes(folder),
            "resumable": resumable,
            "made_by": dict(made_by),
            "unlogged_loss": unlogged_loss,
            "last_logged": last_logged,
            "ended": ended,
        },
    )


def read(folder: Path, step: int) -> Checkpoint | None:
    """A checkpoint, or None where it is not whole."""
    try:
        written = json.loads((folder / SEAL).read_text(encoding="utf-8"))
        if not is_whole(folder, written.pop("files")):
            return None
        return Checkpoint(folder, step, **written)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def newest(folder: Path, *, resumable: bool = False) -> Checkpoint | None:
    """The newest whole checkpoint below a folder; only those that a training can go on from, if asked for."""
    whole = (checkpoint for step, path in list_checkpoints(folder) if (checkpoint := read(path, step)) is not None)
    return next((checkpoint for checkpoint in whole if checkpoint.resumable or not resumable), None)


def check_same(checkpoint: Checkpoint, made_by: Mapping[str, Any]) -> None:
    """Refuses to go on from what other settings or other data have made.

    Raises:
        Refusal: naming what differs.
    """
    ours = json.loads(json.dumps(dict(made_by)))
    names = sorted(name for name in {*ours, *checkpoint.made_by} if ours.get(name) != checkpoint.made_by.get(name))
    if names:
        changes = ", ".join(f"{name} was {checkpoint.made_by.get(name)!r} and is {ours.get(name)!r}" for name in names)
        raise Refusal(
            f"resume_from_checkpoint is true, but '{checkpoint.folder.name}' in the output comes from another "
            f"training: {changes}. Give the old settings back, or start anew with resume_from_checkpoint false"
        )


def remove_broken(folder: Path) -> list[str]:
    """Deletes checkpoints that are not whole; their names."""
    broken = [path for step, path in list_checkpoints(folder) if read(path, step) is None]
    for path in broken:
        shutil.rmtree(path, ignore_errors=True)
    return [path.name for path in broken]


def rotate(folder: Path, *, keep: int | None, best: str | None) -> None:
    """Deletes the oldest checkpoints beyond `keep`, but never the newest whole one nor the best.

    Called when a new one is sealed, so for that moment the disk holds one more than `keep`.
    """
    if keep is None:
        return
    last = newest(folder)
    protected = {path for path in (last and last.folder, best and Path(best)) if path}
    there = [path for _, path in reversed(list_checkpoints(folder))]
    surplus = len(there) - max(keep, len(protected))
    for path in [path for path in there if path not in protected][: max(surplus, 0)]:
        unseal(path)
        shutil.rmtree(path, ignore_errors=True)


def is_full(error: BaseException | None) -> bool:
    """Whether an error says that a disk, a quota or a limit of a file's size is used up.

    safetensors and torch raise errors of their own for it, whose text alone names the cause; torch's may name it in
    the error before the last.
    """
    if error is None:
        return False
    if isinstance(error, OSError) and error.errno in NO_ROOM:
        return True
    return any(cause in str(error) for cause in NO_ROOM_TEXTS) or is_full(error.__context__)


@contextmanager
def room_for(what: str, *, checkpoints: Path, unfinished: Path | None = None) -> Iterator[None]:
    """A context in which files are written; a full disk ends it with what can be done.

    Args:
        what: is written.
        checkpoints: the folder of all checkpoints.
        unfinished: a folder that is of no use unless it is whole.

    Raises:
        Refusal: for a full disk, after the unfinished folder was taken away again.
    """
    try:
        yield
    except Exception as error:
        if not is_full(error):
            raise
        if unfinished is not None:
            shutil.rmtree(unfinished, ignore_errors=True)
        last = newest(checkpoints)
        free = shutil.disk_usage(checkpoints.parent).free
        fallback = f"the last good one is '{last.folder.name}'" if last else "there is no whole one"
        raise Refusal(
            f"no room for {what}: {error}; {free / 1e6:.0f} MB are free in '{checkpoints.parent}'. Of the checkpoints "
            f"{fallback}. Give the output more room, or lower save_total_limit, and go on with resume_from_checkpoint "
            "true"
        ) from error


def seconds_between() -> float:
    """How often to write checkpoints, as the environment says."""
    text = os.environ.get("MLOPS_CHECKPOINT_S", str(EVERY_S))
    with suppress(ValueError):
        if (seconds := float(text)) >= 0:
            return seconds
    raise Refusal(f"MLOPS_CHECKPOINT_S is '{text}': give the seconds between two checkpoints")


class Schedule:
    """Says when the next checkpoint is due, by the clock."""

    def __init__(self) -> None:
        """Starts the clock.

        Raises:
            Refusal: where the environment's number of seconds is none.
        """
        self.every_s = seconds_between()
        self._last_s = time.monotonic()

    @property
    def due(self) -> bool:
        """Whether it is time."""
        return time.monotonic() - self._last_s >= self.every_s

    def done(self) -> None:
        """Starts the clock anew."""
        self._last_s = time.monotonic()
