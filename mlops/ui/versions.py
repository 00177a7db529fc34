"""Model versions with their lineage: job, data, commit, scores, where they stand, and what the gate said of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mlops import ledger
from mlops.azure import endpoints, models
from mlops.core.errors import MlopsError
from mlops.core.resources import Deployment, ModelVersion
from mlops.training.register import ACCEPTED_TAG, EVALUATION_TAG, LINEAGE, SCORES, model_name
from mlops.ui.trainings import Score, scores

if TYPE_CHECKING:
    from mlops.azure.session import Session

MOST = 60
SHOWN = {
    *LINEAGE,
    *SCORES,
    "managed-by",
    "job",
    "experiment",
    EVALUATION_TAG,
    ACCEPTED_TAG,
    f"{ACCEPTED_TAG}-by",
}
"""Tags that have a place of their own."""


@dataclass(frozen=True, kw_only=True)
class Version:
    """One version, the slots that it stands in, and what was released of it."""

    model: ModelVersion
    slots: tuple[str, ...]
    approved: bool | None
    entries: tuple[ledger.Entry, ...]

    @property
    def lineage(self) -> dict[str, str]:
        """Tags that say what it was made of."""
        return {name: self.model.tags[name] for name in LINEAGE if self.model.tags.get(name)}

    @property
    def scores(self) -> list[Score]:
        """Scores that it bears as tags."""
        return scores({name: number for name in SCORES if (number := _number(self.model.tags.get(name))) is not None})

    @property
    def evaluation(self) -> str:
        """How the training's own scores were judged; empty where nobody did."""
        return self.model.tags.get(EVALUATION_TAG, "")

    @property
    def accepted(self) -> str:
        """Why a person registered it nevertheless, and who."""
        why, who = (self.model.tags.get(name, "") for name in (ACCEPTED_TAG, f"{ACCEPTED_TAG}-by"))
        return f"{why} ({who})" if why and who else why

    @property
    def tags(self) -> dict[str, str]:
        """Every other tag."""
        return {name: value for name, value in sorted(self.model.tags.items()) if name not in SHOWN}


@dataclass(frozen=True, kw_only=True)
class Versions:
    """The versions of the target's model, newest first."""

    name: str
    versions: tuple[Version, ...]
    total: int
    notes: tuple[str, ...] = ()


def read_versions(session: Session) -> Versions:
    """Every version, archived ones too; what else cannot be read becomes a note."""
    name, endpoint = model_name(session.settings), session.settings.endpoint.name
    registered = models.versions(session, name, archived=True)
    notes: list[str] = []
    deployments: Sequence[Deployment] = ()
    records: Sequence[ledger.Record] | None = None
    try:
        if endpoints.get(session, endpoint) is not None:
            deployments = endpoints.deployments(session, endpoint)
        records = ledger.Ledger(session, endpoint).read()
    except MlopsError as error:
        notes.append(f"where they stand cannot be read: {error.message}")
    entries = ledger.history(records or ())
    rows = tuple(
        Version(
            model=item,
            slots=tuple(
                sorted(slot.name for slot in deployments if (slot.model, slot.model_version) == (name, item.version))
            ),
            approved=None if records is None else ledger.approved(records, name, item.version),
            entries=tuple(entry for entry in entries if (entry.model, entry.version) == (name, item.version)),
        )
        for item in registered[:MOST]
    )
    return Versions(name=name, versions=rows, total=len(registered), notes=tuple(notes))


def _number(text: str | None) -> float | None:
    """A tag's number; anybody may have written something else."""
    try:
        return float(text or "")
    except ValueError:
        return None
