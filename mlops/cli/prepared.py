"""The prepared data that train, deploy and run share: what the settings prepare, or a folder that was named."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from mlops.cli.options import Run
from mlops.errors import DataInvalid, PreconditionError

if TYPE_CHECKING:
    from mlops.data.manifest import Manifest
    from mlops.training import TrainingData


def prepared(run: Run, folder: Path | None) -> TrainingData:
    """Find or make the prepared data.

    Args:
        run: the command's settings and console.
        folder: a folder that `mlops data prepare` wrote; None prepares what the settings say (a second time: nothing).

    Raises:
        DataInvalid: the folder is not whole, or the data breaks its rules.
    """
    from mlops.data.manifest import Manifest
    from mlops.data.preparation import Request, prepare

    if folder is not None:
        manifest = Manifest.read(folder)
        if not manifest.is_whole(folder):
            raise DataInvalid(f"'{folder}' is not what its manifest says", hint="mlops data prepare makes it anew")
        return training_data(run, folder, manifest)
    wanted = run.settings.data
    request = Request(
        dataset=dataset_place(run.settings.root, wanted.dataset),
        revision=wanted.revision,
        way=wanted.way,
        percent=wanted.percent,
        seed=wanted.seed,
        train_split=wanted.train_split,
    )
    found = prepare(request, home=run.settings.home, console=run.console)
    return training_data(run, found.folder, found.manifest)


def dataset_place(root: Path, dataset: str) -> str:
    """A folder beside mlops.yaml by its path from here; a name on the hub as it is."""
    beside = root / dataset
    return os.path.relpath(beside) if beside.exists() else dataset


def training_data(run: Run, folder: Path, manifest: Manifest) -> TrainingData:
    """The two files that the pipeline takes."""
    from mlops.training import TrainingData

    cut = manifest.way == "cut"
    wanted = run.settings.data
    names = ("train", "test") if cut else (wanted.train_split, wanted.test_split)
    files = [folder / f"{name}.jsonl" for name in names]
    for file in files:
        if not file.is_file():
            has = ", ".join(entry.name for entry in manifest.files)
            raise PreconditionError(
                f"the prepared data has no split '{file.stem}'; it has {has}", hint="see data in mlops.yaml"
            )
    rows = {entry.name.removesuffix(".jsonl"): entry.rows for entry in manifest.files}
    return TrainingData(train=files[0], test=files[1], content_hash=manifest.content_hash, folder=folder, rows=rows)


def gate_rows(run: Run, data: TrainingData) -> Path:
    """The split that the gate draws from; data that was cut in two has only `test`."""
    named = data.folder / f"{run.settings.gate.split}.jsonl"
    return named if named.is_file() else data.test
