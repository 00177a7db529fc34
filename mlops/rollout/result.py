"""What a deploy or a rollback did."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlops.gate import Report


@dataclass(frozen=True, kw_only=True)
class RolloutResult:
    """What a deploy or a rollback did.

    Attributes:
        endpoint: its name.
        slot: where the version is.
        model: the model's name.
        version: the model's version.
        traffic: per cent per slot, now.
        before: the same before it began.
        scoring_url: where the endpoint answers.
        changed: whether traffic moved.
        rollout: the id in the endpoint's history.
        replaced: the version that was live before, as ``model:version``; None where nothing was.
        report: what the gate and the soaks measured.
        report_folder: where the report is.
        skipped_gate: why no gate was asked.
        note: one sentence for people.
    """

    endpoint: str
    slot: str
    model: str
    version: str
    traffic: Mapping[str, int]
    before: Mapping[str, int]
    scoring_url: str | None
    changed: bool
    rollout: str = ""
    replaced: str | None = None
    report: Report | None = None
    report_folder: str | None = None
    skipped_gate: str | None = None
    note: str = ""
