"""What is to be done, by what the workspace and the endpoint's history show. All decisions here are pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from mlops.core.resources import MODEL_TAG, Job, ModelVersion, made_here
from mlops.ledger import Outcome, Record, Verdict, history

REPORTED_TAG = "mlops-reported"
"""On a job whose bad end people have been told of."""
ENDED_BADLY = frozenset({"Failed", "Canceled"})
TRIES = 3
"""So many rollouts of one version may break off before a person has to look."""
NO = frozenset({"fail", "inconclusive"})


@dataclass(frozen=True, kw_only=True)
class Work:
    """The trainings of this repository, by what is to be done."""

    running: tuple[Job, ...] = ()
    register: tuple[Job, ...] = ()
    report: tuple[Job, ...] = ()


@dataclass(frozen=True)
class Next:
    """The version that should be deployed; empty where none should. ``why`` is for people."""

    version: str
    why: str


def ours(job: Job, *, model: str, experiment: str) -> bool:
    """Whether a job was submitted by this repository for this model; those that name no model go by experiment."""
    if not made_here(job.tags):
        return False
    return job.tags[MODEL_TAG] == model if MODEL_TAG in job.tags else job.experiment == experiment


def sort_jobs(jobs: Iterable[Job], versions: Iterable[ModelVersion]) -> Work:
    """Completed and without a version: to register. Ended badly and nobody told: to report. The rest still runs.

    Args:
        jobs: of this repository.
        versions: of the model, archived ones too.
    """
    registered = {name for version in versions for name in (version.tags.get("job"), version.job) if name}
    listed = list(jobs)
    return Work(
        running=tuple(job for job in listed if not job.is_completed and job.status not in ENDED_BADLY),
        register=tuple(job for job in listed if job.is_completed and job.name not in registered),
        report=tuple(job for job in listed if job.status in ENDED_BADLY and REPORTED_TAG not in job.tags),
    )


def next_version(
    versions: Iterable[ModelVersion], records: Sequence[Record], *, live: Collection[str], locked: bool
) -> Next:
    """The newest version of a training that is newer than all that is live or was tried on the endpoint.

    What was tried is in the endpoint's history: a version that the gate refused, that a person rolled back or broke
    off, is not offered again. One whose rollout merely broke (a runner that died, Azure) is, :data:`TRIES` times.

    Args:
        versions: of the model, without archived ones.
        records: the endpoint's history.
        live: the versions with traffic.
        locked: whether somebody holds the endpoint's lease.
    """
    trained = [item.version for item in versions if made_here(item.tags) and item.tags.get("job")]
    newest = max((version for version in trained if version.isdigit()), key=int, default="")
    if not newest:
        return Next("", "there is no version of a training")
    entries = history(records, locked=locked)
    if entries and entries[0].outcome is Outcome.RUNNING:
        return Next("", f"a rollout by {entries[0].by} is under way")
    if newest in live:
        return Next("", f"{newest} is live")
    tried = {
        entry.version
        for entry in entries
        if entry.outcome.is_final and (entry.ended or entry.outcome is Outcome.OVERRULED)
    }
    verdicts = [record.facts for record in records if isinstance(record.facts, Verdict)]
    judged = {verdict.version or "" for verdict in verdicts if verdict.verdict in NO}
    past = {version for version in (*live, *tried, *judged) if version.isdigit()}
    newer = max(past, key=int, default="0")
    if int(newest) <= int(newer):
        if newest in judged:
            return Next("", f"{newest} did not pass here; only a person deploys it again")
        return Next("", f"{newest} was tried here already" if newest in past else f"{newer} is newer than {newest}")
    broken = sum(entry.version == newest and entry.action == "deploy" for entry in entries)
    if broken >= TRIES:
        return Next("", f"{broken} rollouts of {newest} broke off; a person has to look")
    return Next(newest, "newer than what is live or was tried")
