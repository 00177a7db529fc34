"""The stand-in base model: committed in ``components/standin/model``, laid out once per content and cache.

Jobs find it in an offline hub cache (``HF_HOME``), the registry publishes it as an MLflow model;
``components/standin/layouts.py`` writes both.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import uuid
from pathlib import Path

from mlops.local.state.layout import Layout

HUGGINGFACE_ID = "microsoft/Phi-3-mini-4k-instruct"
MODEL = "Phi-3-mini-4k-instruct"
VERSION = "15"
CHECKOUT = Path(__file__).resolve().parents[3]
LAYOUTS_S = 600.0
"""Ends a program that hangs; it copies some megabytes."""


class StandInFailed(Exception):
    """The base model could not be laid out; says what to do, or ends with the program's last words."""


class StandIn:
    """Finds the base model, or lays it out."""

    def __init__(self, layout: Layout, checkout: Path = CHECKOUT) -> None:
        self._layout = layout
        self._model = checkout / "components" / "standin" / "model"
        self._script = checkout / "components" / "standin" / "layouts.py"
        self._known: tuple[tuple[int, ...], str] | None = None

    @property
    def key(self) -> str:
        """Hash of all that decides what is laid out."""
        sources = [self._script, *(files(self._model) if self._model.is_dir() else [])]
        times = tuple(path.stat().st_mtime_ns if path.exists() else 0 for path in sources)
        if self._known is None or self._known[0] != times:
            digest = hashlib.sha256()
            for path in sources:
                digest.update(path.name.encode() + b"\0" + (path.read_bytes() if path.exists() else b"") + b"\0")
            self._known = (times, digest.hexdigest()[:16])
        return self._known[1]

    @property
    def folder(self) -> Path:
        """Both layouts: ``hf`` (HF_HOME) and ``mlflow`` (the registry's model)."""
        return self._layout.cache / "standin" / self.key

    @property
    def hub(self) -> Path:
        """``HF_HOME`` of jobs."""
        return self.folder / "hf"

    def ready(self) -> bool:
        """Whether it is laid out."""
        return (self.folder / "mlflow" / "MLmodel").exists()

    def ensure(self, *, publish: Path | None = None) -> Path:
        """Lay it out unless it is; processes that come meanwhile wait.

        Args:
            publish: the registry's container, into which the MLflow model is copied.

        Returns:
            the folder.

        Raises:
            StandInFailed: the committed model is missing, or the program failed.
        """
        folder = self.folder
        folder.parent.mkdir(parents=True, exist_ok=True)
        with (folder.parent / f".{folder.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not self.ready():
                for leftover in folder.parent.glob(f".{folder.name}.*/"):  # of a program that was killed
                    if leftover.is_dir():
                        shutil.rmtree(leftover, ignore_errors=True)
                self._lay_out(folder, lock.fileno())
            if publish is not None:
                copy_beside(folder / "mlflow", publish / "models" / MODEL / VERSION)
        return folder

    def _lay_out(self, folder: Path, lock: int) -> None:
        if not (self._model / "config.json").exists():
            raise StandInFailed(
                f"The base model is missing: '{self._model}'. `git checkout -- components/standin/model` brings it "
                "back, `python components/standin/build.py` trains another one."
            )
        beside = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}")
        beside.mkdir(parents=True)
        try:
            targets = ["--hub-cache", str(beside / "hf"), "--mlflow", str(beside / "mlflow")]
            run(
                [sys.executable, str(self._script), "--model", str(self._model), "--repo", HUGGINGFACE_ID, *targets],
                lock,
            )
            shutil.rmtree(folder, ignore_errors=True)
            beside.rename(folder)
        finally:
            shutil.rmtree(beside, ignore_errors=True)


def run(command: list[str], lock: int) -> None:
    """Run the program that lays the model out.

    The program inherits the lock: when the daemon that started it is killed, the next one waits for it to end instead
    of writing beside it.

    Raises:
        StandInFailed: it failed or took too long.
    """
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=LAYOUTS_S, pass_fds=(lock,), check=False
        )
    except subprocess.TimeoutExpired as error:
        raise StandInFailed(f"Laying out the base model took longer than {LAYOUTS_S:g} seconds.") from error
    if done.returncode != 0:
        raise StandInFailed(f"Laying out the base model failed: {(done.stderr or done.stdout)[-2000:]}")


def copy_beside(source: Path, target: Path) -> None:
    """Copy a folder beside its place and rename it; nothing where the same is already there."""
    lines = [f"{path.relative_to(source)} {path.stat().st_size} {path.stat().st_mtime_ns}" for path in files(source)]
    mark = hashlib.sha256("\n".join(lines).encode()).hexdigest()
    note = target.with_name(f".{target.name}.from")
    if target.exists() and note.exists() and note.read_text() == mark:
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    beside = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.part")
    shutil.copytree(source, beside, copy_function=shutil.copy2)
    shutil.rmtree(target, ignore_errors=True)
    beside.rename(target)
    note.write_text(mark)


def files(folder: Path) -> list[Path]:
    """The files of a folder, in a stable order."""
    return sorted(path for path in folder.rglob("*") if path.is_file())
