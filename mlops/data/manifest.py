"""What a prepared folder holds, and out of what it was made."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from mlops.core.errors import DataInvalid, FileLocation

FILE = "manifest.json"
REJECTED = "rejected.jsonl"


class FileEntry(BaseModel):
    """One file of the folder."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    rows: int
    bytes: int
    sha256: str


class Manifest(BaseModel):
    """The contents of `manifest.json`; the same input gives the same bytes.

    Attributes:
        dataset: name on the hub, or the folder as it was given.
        revision: the commit on the hub.
        way: "splits" (a share of each split) or "cut" (one split cut into train and test).
        percent: the share that was taken, from the beginning of each split.
        seed: decides the cut; None when nothing was cut.
        files: the splits, training first.
        rejected: the rows that were left out, where there are any.
        content_hash: hash of the files' names and contents; the folder's default name.
        versions: of the programs that decide the bytes.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    dataset: str
    revision: str | None
    way: str
    percent: float
    seed: int | None
    files: tuple[FileEntry, ...]
    rejected: FileEntry | None = None
    content_hash: str
    versions: dict[str, str]

    @property
    def rows(self) -> int:
        """Rows of all splits."""
        return sum(file.rows for file in self.files)

    def file(self, split: str) -> FileEntry | None:
        """Returns the file of one split."""
        return next((file for file in self.files if file.name == f"{split}.jsonl"), None)

    def text(self) -> str:
        """Returns the manifest as it is written."""
        return json.dumps(self.model_dump(mode="json"), indent=2, ensure_ascii=False) + "\n"

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """Reads the manifest of a prepared folder.

        Raises:
            DataInvalid: there is none, or it is broken.
        """
        path = folder / FILE
        try:
            return cls.model_validate_json(path.read_bytes())
        except OSError:
            raise DataInvalid(
                f"'{folder}' is no prepared folder: it has no {FILE}", hint="mlops data prepare makes one"
            ) from None
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise DataInvalid(f"'{where}': {first['msg']}", location=FileLocation(file=str(path))) from None

    def is_whole(self, folder: Path) -> bool:
        """Whether all files are there with their sizes (contents are not read)."""
        entries = [*self.files, *([self.rejected] if self.rejected else [])]
        return all(
            (folder / entry.name).is_file() and (folder / entry.name).stat().st_size == entry.bytes for entry in entries
        )


def content_hash(files: tuple[FileEntry, ...]) -> str:
    """Returns the name of a content: 16 hexadecimal digits over names and SHA-256 of the split files."""
    digest = hashlib.sha256()
    for file in sorted(files, key=lambda entry: entry.name):
        digest.update(f"{file.name} {file.sha256}\n".encode())
    return digest.hexdigest()[:16]
