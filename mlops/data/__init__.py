"""Chats in, checked split files and a manifest out.

``prepare`` writes them, ``validate`` only looks, :func:`mlops.data.preview.preview` shows the first rows.
"""

from mlops.data.manifest import FileEntry, Manifest
from mlops.data.preparation import Prepared, Request, prepare, recorded
from mlops.data.preview import Preview
from mlops.data.report import Report
from mlops.data.validation import validate

__all__ = [
    "FileEntry",
    "Manifest",
    "Prepared",
    "Preview",
    "Report",
    "Request",
    "prepare",
    "recorded",
    "validate",
]
