"""Where the rows come from: which files belong to which split of a folder, or of a data set on the hub."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlops.core.errors import DataInvalid, FileLocation, PreconditionError, UsageError
from mlops.data.reading import SUFFIXES, is_readable
from mlops.data.rules import is_train

SHARD = re.compile(r"[-_]\d{5}-of-\d{5}.*$")
TRANSPORTS = ("httpx", "httpcore", "aiohttp", "requests", "urllib3", "fsspec", "huggingface_hub", "datasets", "pyarrow")
# Files of a prepared folder, or beside a data set, that hold no split.
NO_SPLIT = {"manifest", "rejected", "dataset_info", "dataset_dict", "dataset_infos", "state"}


@dataclass(frozen=True)
class Source:
    """A data set that was found.

    Attributes:
        dataset: its name, or the folder as it was given.
        revision: the commit on the hub; None for a folder.
        splits: the files of each split, in order; training splits come first.
    """

    dataset: str
    revision: str | None
    splits: Mapping[str, tuple[Path, ...]]

    def files(self) -> list[Path]:
        """Returns all files of all splits."""
        return [path for files in self.splits.values() for path in files]


def split_name(path: Path) -> str:
    """Returns the split that a file's name says: `data/train_sft-00000-of-00003-1f2e.parquet` is `train_sft`."""
    stem = path.name
    for suffix in SUFFIXES:
        stem = stem.removesuffix(suffix)
    stem = SHARD.sub("", stem)
    # `datasets` saves to disk as <split>/data-00000-of-00001.arrow
    return path.parent.name if stem in ("data", "part") and path.parent.name else stem


def in_order(splits: Mapping[str, tuple[Path, ...]]) -> dict[str, tuple[Path, ...]]:
    """Returns the splits with those for training first: a conversation in both is then reported in test."""
    return dict(sorted(splits.items(), key=lambda item: not is_train(item[0])))


def folder(path: Path, *, named: str) -> Source:
    """Finds the splits of a folder: by its card if that names them, else by the names of the files.

    Raises:
        UsageError: there is no file that can be read.
        DataInvalid: the card is broken.
    """
    splits = _by_card(path) or _by_name(path)
    if not splits:
        raise UsageError(
            f"the folder '{named}' has no file with rows",
            hint=f"name them <split>.jsonl or data/<split>-00000-of-00001.parquet; read are {', '.join(SUFFIXES)}",
        )
    return Source(dataset=named, revision=None, splits=in_order(splits))


def locate(
    dataset: str, *, revision: str | None, root: Path | None = None, splits: tuple[str, ...] | None = None
) -> Source:
    """Finds a data set: a folder or a file if there is one of that name, else on the hub.

    Args:
        dataset: folder, file, or a name on the hub.
        revision: branch, tag or commit on the hub.
        root: where a relative path begins; the working directory when None.
        splits: only these are fetched from the hub; all when None.

    Raises:
        UsageError: a path that does not exist.
        PreconditionError: the hub cannot be reached, or has no such data set.
    """
    path = _near((root or Path()) / Path(dataset).expanduser())
    if path.is_dir():
        return folder(path, named=dataset)
    if path.is_file():
        if not is_readable(path):
            raise UsageError(f"'{dataset}' is none of {', '.join(SUFFIXES)}")
        return Source(dataset=dataset, revision=None, splits={split_name(path): (path,)})
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", dataset) or dataset.startswith((".", "/")) or is_readable(path):
        raise UsageError(f"there is no folder or file '{dataset}'")
    return _hub(dataset, revision, splits)


def _near(path: Path) -> Path:
    """Returns a path relative to the working directory if it lies there: messages and annotations show it."""
    try:
        return path.absolute().relative_to(Path.cwd())
    except ValueError:
        return path


def _by_card(path: Path) -> dict[str, tuple[Path, ...]]:
    import yaml

    card = path / "README.md"
    if not card.is_file():
        return {}
    text = card.read_text(encoding="utf-8", errors="replace")
    head = re.match(r"---\r?\n(.*?)\r?\n---\s*(\r?\n|$)", text, re.DOTALL)
    if head is None:
        return {}
    try:
        fields = yaml.safe_load(head[1])
    except yaml.YAMLError as error:
        raise DataInvalid(
            f"the card's head is not YAML: {error}", location=FileLocation(file=str(card), line=1)
        ) from None
    configs = fields.get("configs") if isinstance(fields, dict) else None
    if not isinstance(configs, list) or not configs:
        return {}
    mappings = [config for config in configs if isinstance(config, dict)]
    config = next((each for each in mappings if each.get("config_name") == "default"), mappings[0] if mappings else {})
    splits: dict[str, tuple[Path, ...]] = {}
    for entry in config.get("data_files") or []:
        if not isinstance(entry, dict) or "split" not in entry:
            continue
        patterns = entry.get("path") or []
        files = [
            file
            for pattern in ([patterns] if isinstance(patterns, str) else patterns)
            for file in sorted(path.glob(str(pattern)))
            if is_readable(file)
        ]
        if not files:
            raise DataInvalid(
                f"the card names '{patterns}' for the split {entry['split']}, and there is no such file",
                location=FileLocation(file=str(card)),
            )
        splits[str(entry["split"])] = tuple(files)
    return splits


def _by_name(path: Path) -> dict[str, tuple[Path, ...]]:
    files: dict[str, list[Path]] = {}
    for file in sorted([*path.glob("*"), *path.glob("*/*")]):
        relative = file.relative_to(path)
        hidden = any(part.startswith((".", "_")) for part in relative.parts)
        if not hidden and file.is_file() and is_readable(file) and split_name(file) not in NO_SPLIT:
            files.setdefault(split_name(file), []).append(file)
    if len(files) == 1 and not next(iter(files)).startswith(("train", "test", "val", "dev", "eval")):
        files = {"train": next(iter(files.values()))}
    return {split: tuple(files) for split, files in files.items()}


def _hub(dataset: str, revision: str | None, splits: tuple[str, ...] | None) -> Source:
    """Downloads a data set with `datasets`; the files are those of its cache."""
    import datasets
    from datasets.exceptions import DatasetNotFoundError

    datasets.disable_progress_bars()
    try:
        commit = revision if revision and re.fullmatch(r"[0-9a-f]{40}", revision) else _commit(dataset, revision)
        names = splits or tuple(datasets.get_dataset_split_names(dataset, revision=commit))
        loaded: dict[str, tuple[Path, ...]] = {}
        for name in names:
            rows: Any = datasets.load_dataset(dataset, split=name, revision=commit)
            loaded[name] = tuple(Path(file["filename"]) for file in rows.cache_files)
    except DatasetNotFoundError:
        raise PreconditionError(
            f"the hub has no data set '{dataset}' that can be read",
            hint="is it a folder? then it does not exist here; is it gated? then log in with `hf auth login`",
        ) from None
    except ValueError as error:
        raise PreconditionError(f"the data set '{dataset}' cannot be loaded: {error}") from None
    except (OSError, RuntimeError) as error:
        raise _unreachable(dataset, error) from None
    except Exception as error:
        # The hub's clients raise errors of their transports, which have no base class in common.
        if not type(error).__module__.startswith(TRANSPORTS):
            raise
        raise _unreachable(dataset, error) from None
    return Source(dataset=dataset, revision=commit, splits=in_order(loaded))


def _commit(dataset: str, revision: str | None) -> str:
    from huggingface_hub import HfApi

    return str(HfApi().dataset_info(dataset, revision=revision).sha)


def _unreachable(dataset: str, error: Exception) -> PreconditionError:
    text = str(error).strip().splitlines()
    return PreconditionError(
        f"the data set '{dataset}' cannot be fetched: {text[0] if text else type(error).__name__}",
        hint="check the network and the name, or give a folder: --dataset data/bundled",
    )
