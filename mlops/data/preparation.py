"""Chats to split files: `<split>.jsonl` and a manifest in a folder that is named after its content."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mlops.core.errors import DataInvalid, FileLocation, PreconditionError, UsageError
from mlops.data import manifest as manifests
from mlops.data import reading, selection, sources
from mlops.data.manifest import Manifest
from mlops.data.report import Report, Tally
from mlops.data.rules import Checker, RowInvalid, is_train
from mlops.data.validation import follow, note_columns
from mlops.data.writing import Writer

if TYPE_CHECKING:
    from mlops.core.console import Console

FORMAT = 1
"""Raised when the same input is to give other bytes than before."""

EXCERPT = 2000


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is asked for; together with the source's bytes it decides the result.

    Attributes:
        dataset: a name on the hub, a folder, or a file.
        revision: branch, tag or commit on the hub.
        way: "splits" takes a share of every split, "cut" cuts one split 80/20 into train and test.
        percent: the share, from the beginning of each split.
        seed: decides the cut.
        train_split: the split that "cut" cuts.
        drop_invalid: leave rows that break a rule out, with the reason in rejected.jsonl.
        derive: fill a missing prompt and prompt_id in.
        max_row_bytes: a longer row breaks a rule.
    """

    dataset: str
    revision: str | None = None
    way: Literal["splits", "cut"] = "splits"
    percent: float = 100
    seed: int = 42
    train_split: str = "train_sft"
    drop_invalid: bool = False
    derive: bool = False
    max_row_bytes: int = reading.MAX_ROW_BYTES


@dataclass(frozen=True)
class Prepared:
    """A prepared folder; ``report`` is None when it had been prepared before."""

    folder: Path
    manifest: Manifest
    repeated: bool
    report: Report | None = None

    def file(self, split: str, *, or_first: bool | None = None) -> Path:
        """Returns the file of a split.

        Args:
            split: its name.
            or_first: where there is no such split, the first one to train on (True) or to test on (False).

        Raises:
            UsageError: there is no such split.
        """
        names = [entry.name for entry in self.manifest.files]
        if f"{split}.jsonl" in names:
            return self.folder / f"{split}.jsonl"
        for name in sorted(names, key=lambda name: name.endswith("_gen.jsonl")):
            if or_first is not None and is_train(name) == or_first:
                return self.folder / name
        raise UsageError(f"'{self.folder}' has no split '{split}'; it has {', '.join(names)}")


def prepare(
    request: Request,
    *,
    home: Path,
    output: Path | None = None,
    root: Path | None = None,
    console: Console | None = None,
) -> Prepared:
    """Writes the split files of a data set, or finds those that it wrote before.

    Nothing half written is ever seen: the folder is filled under another name and renamed.

    Args:
        request: what to take.
        home: where prepared folders are kept, `<home>/<content hash>`.
        output: write to exactly this folder instead.
        root: where a relative dataset begins; the working directory when None.
        console: shows progress.

    Raises:
        DataInvalid: rows or files break a rule.
        UsageError: the data set or its splits are not there, or `output` holds something else.
        PreconditionError: the hub cannot be reached, or the disk is full.
    """
    if not 0 < request.percent <= 100:
        raise UsageError(f"percent is {request.percent:g}; it must be above 0 and at most 100")
    splits = (request.train_split,) if request.way == "cut" else None
    source = sources.locate(request.dataset, revision=request.revision, root=root, splits=splits)
    source = _needed(source, request)
    memory = home / "requests" / f"{_fingerprint(request, source, output)}.json"
    if known := _recall(memory):
        return known
    _refuse_foreign(output)
    parent = home if output is None else output.absolute().parent
    try:
        parent.mkdir(parents=True, exist_ok=True)
        _sweep(parent)
        beside = parent / f".part-{os.getpid()}-{os.urandom(4).hex()}"
        beside.mkdir()
        try:
            manifest, report = _fill(beside, request, source, console)
            (beside / manifests.FILE).write_text(manifest.text(), encoding="utf-8")
            folder = home / manifest.content_hash if output is None else output
            _put(beside, folder, manifest)
        finally:
            shutil.rmtree(beside, ignore_errors=True)
        _write(memory, json.dumps({"folder": str(folder.absolute()), "content_hash": manifest.content_hash}) + "\n")
    except OSError as error:
        is_of_source = error.filename is not None and Path(error.filename) in source.files()
        where = f"read '{error.filename}'" if is_of_source else f"write to '{parent}'"
        raise PreconditionError(f"cannot {where}: {error.strerror or error}") from None
    return Prepared(folder=folder, manifest=manifest, repeated=False, report=report)


def _needed(source: sources.Source, request: Request) -> sources.Source:
    """Keeps the splits that are asked for and makes sure that they are enough."""
    splits = dict(source.splits)
    split_list = ", ".join(splits)
    if request.way == "cut":
        name = request.train_split if request.train_split in splits else next(filter(is_train, splits), None)
        if len(splits) > 1 and request.train_split not in splits:
            raise UsageError(f"'{request.dataset}' has no split '{request.train_split}'; it has {split_list}")
        if name is None:
            name = next(iter(splits))
        return sources.Source(source.dataset, source.revision, {name: splits[name]})
    if not any(map(is_train, splits)):
        raise UsageError(f"'{request.dataset}' has no training split (train…); it has {split_list}")
    if all(map(is_train, splits)):
        raise UsageError(
            f"'{request.dataset}' has no test split; it has {split_list}",
            hint="--way cut makes one of a fifth of the rows",
        )
    return source


def _fingerprint(request: Request, source: sources.Source, output: Path | None) -> str:
    """Names a request and the state of its files, cheaply: by their sizes and times, not by their contents."""
    files = [
        (split, str(path.absolute()), path.stat().st_size, path.stat().st_mtime_ns)
        for split, paths in source.splits.items()
        for path in paths
    ]
    target = None if output is None else str(output.absolute())
    known = [FORMAT, asdict(request), source.revision, files, target, _versions()]
    return hashlib.sha256(json.dumps(known).encode()).hexdigest()[:32]


def _versions() -> dict[str, str]:
    import msgspec

    from mlops import __version__

    return {"mlops": __version__, "format": str(FORMAT), "msgspec": msgspec.__version__}


def recorded(folder: Path) -> Prepared:
    """Returns a folder that was prepared before.

    Raises:
        DataInvalid: it has no manifest, or files are missing or of another size.
    """
    manifest = Manifest.read(folder)
    if not manifest.is_whole(folder):
        raise DataInvalid(f"files of '{folder}' are not those of its manifest", hint="mlops data prepare it anew")
    return Prepared(folder=folder, manifest=manifest, repeated=True)


def _recall(memory: Path) -> Prepared | None:
    """Returns what an equal request has left, if it is still whole."""
    try:
        memo = json.loads(memory.read_bytes())
        folder = Path(memo["folder"])
        prepared = recorded(folder)
    except (OSError, ValueError, KeyError, TypeError, DataInvalid):
        return None
    return prepared if prepared.manifest.content_hash == memo["content_hash"] else None


def _checked(checker: Checker, split: str, line: bytes | RowInvalid) -> bytes | RowInvalid:
    """The row as it is written, or what is wrong with it."""
    if isinstance(line, RowInvalid):
        return line
    try:
        return checker.check(split, line)
    except RowInvalid as problem:
        return problem


def _refuse_an_empty_split(rows: Mapping[str, int], tally: Tally, report: Report) -> None:
    for split, written in rows.items():
        if not written:
            raise DataInvalid(
                f"nothing is left of the split '{split}' ({tally.rows[split]} rows taken, "
                f"{tally.invalid.get(split, 0)} of them invalid)",
                details=[str(violation) for violation in report.violations],
                hint="take more of the data set: --percent 100",
            )


def _fill(beside: Path, request: Request, source: sources.Source, console: Console | None) -> tuple[Manifest, Report]:
    tally = Tally(Checker(derive=request.derive))
    writers: dict[str, Writer] = {}
    with ExitStack() as files, ThreadPoolExecutor(max_workers=1) as background:

        def writer(name: str) -> Writer:
            # Closed in reverse order: the thread has ended before a file is closed.
            split_writer = Writer(beside / name, background)
            files.callback(split_writer.close)
            return split_writer

        rejected = writer(manifests.REJECTED)
        for split in ("train", "test") if request.way == "cut" else source.splits:
            writers[split] = writer(f"{split}.jsonl")
            tally.rows[split] = 0
        for split, path, number, line in _chosen(request, source, tally, console):
            checked = _checked(tally.checker, split, line)
            if not isinstance(checked, RowInvalid):
                writers[split].write(checked)
                continue
            location = FileLocation(file=str(path), line=number)
            tally.broken(split=split, rule=checked.rule, reason=checked.reason, location=location)
            if request.drop_invalid:
                rejected.write(_rejection(split, checked, location, line))
        for split, written in writers.items():
            tally.rows[split] = written.rows + tally.invalid.get(split, 0)
        entries = tuple(written.finish() for written in writers.values())
        left_out = rejected.finish()
    report = tally.report()
    if report.violations and not request.drop_invalid:
        raise report.error()
    _refuse_an_empty_split({split: written.rows for split, written in writers.items()}, tally, report)
    if not left_out.rows:
        rejected.path.unlink()
    manifest = Manifest(
        dataset=source.dataset,
        revision=source.revision,
        way=request.way,
        percent=request.percent,
        seed=request.seed if request.way == "cut" else None,
        files=entries,
        rejected=left_out if left_out.rows else None,
        content_hash=manifests.content_hash(entries),
        versions=_versions(),
    )
    return manifest, report


def _chosen(
    request: Request, source: sources.Source, tally: Tally, console: Console | None
) -> Iterator[tuple[str, Path, int, bytes | RowInvalid]]:
    """Yields the rows that are asked for: split, file, number, row."""
    for split, files in source.splits.items():
        taken = sides = None
        if request.percent < 100 or request.way == "cut":
            rows = sum(reading.count(path, max_row_bytes=request.max_row_bytes) for path in files)
            taken = selection.first_rows(rows, request.percent)
            if request.way == "cut":
                sides = selection.cut(taken, seed=request.seed)
        index = 0
        for path in files:
            if taken is not None and index >= taken:
                break
            note_columns(tally, path, request.max_row_bytes)
            for number, line in follow(path, request.max_row_bytes, console):
                if taken is not None and index >= taken:
                    break
                side = split if sides is None else ("train", "test")[sides[index]]
                index += 1
                yield side, path, number, line


def _rejection(split: str, problem: RowInvalid, location: FileLocation, line: bytes | RowInvalid) -> bytes:
    text = "" if isinstance(line, RowInvalid) else line.decode("utf-8", "replace").strip()
    entry: dict[str, Any] = {
        "split": split,
        "rule": problem.rule,
        "reason": problem.reason,
        "file": location.file,
        "line": location.line,
        "row": text if len(text) <= EXCERPT else text[:EXCERPT] + "…",
    }
    return json.dumps(entry, ensure_ascii=False).encode()


def _refuse_foreign(output: Path | None) -> None:
    """Never replaces a folder that this program has not made."""
    if output is None or not output.exists():
        return
    if not output.is_dir():
        raise UsageError(f"'{output}' is a file; --output takes a folder")
    if any(output.iterdir()) and not (output / manifests.FILE).is_file():
        raise UsageError(f"the folder '{output}' is not empty and holds no {manifests.FILE}", hint="choose another one")


def _put(beside: Path, folder: Path, manifest: Manifest) -> None:
    """Renames the finished folder to its place; what was there goes, unless it is the same: others may be reading."""
    if _holds(folder, manifest):
        (beside / manifests.FILE).replace(folder / manifests.FILE)
        return
    old = beside.with_name(beside.name + "-old")
    if folder.exists():
        folder.rename(old)
    try:
        beside.rename(folder)
    except OSError:
        # Another run was faster; what it wrote is as good if it is the same.
        if not _holds(folder, manifest):
            raise
    shutil.rmtree(old, ignore_errors=True)


def _holds(folder: Path, manifest: Manifest) -> bool:
    """Whether a folder holds these very files."""
    try:
        existing = Manifest.read(folder)
    except DataInvalid:
        return False
    return (existing.files, existing.rejected) == (manifest.files, manifest.rejected) and existing.is_whole(folder)


def _sweep(parent: Path) -> None:
    """Removes what runs that were killed have left."""
    for part in parent.glob(".part-*"):
        owner = part.name.split("-")[1]
        if not owner.isdigit() or not _is_alive(int(owner)):
            shutil.rmtree(part, ignore_errors=True)


def _is_alive(process: int) -> bool:
    if platform.system() == "Windows":
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f"{path.name}.{os.getpid()}.part")
    beside.write_text(text, encoding="utf-8")
    beside.replace(path)
