"""The folder that a report is written into: its JSON, its Markdown, its pictures, the slot's logs."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from mlops.gate import pictures
from mlops.gate.markdown import to_markdown
from mlops.gate.report import Report, adapter


def read(folder: Path) -> Report:
    """The report in a folder that :func:`write` wrote."""
    return adapter().validate_json((folder / "report.json").read_bytes())


def write(report: Report, folder: Path, *, logs: Mapping[str, str] | None = None) -> Path:
    """Write report.json, report.md, the pictures and the logs into a folder that appears whole or not at all.

    A folder that is there already is replaced whole, logs included.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    new, old = beside / "new", beside / "old"
    try:
        new.mkdir()
        document = json.loads(adapter().dump_json(report))
        text = json.dumps(document, indent=2, ensure_ascii=False)
        (new / "report.json").write_text(text + "\n", encoding="utf-8")
        (new / "report.md").write_text(to_markdown(report) + "\n", encoding="utf-8")
        pictures.draw(report, new)
        for name, lines in (logs or {}).items():
            (new / f"{name}.log").write_text(lines, encoding="utf-8")
        if folder.exists():
            folder.rename(old)
        try:
            new.rename(folder)
        except BaseException:
            if old.exists():
                old.rename(folder)
            raise
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return folder
