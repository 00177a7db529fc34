"""A deployment that failed: Azure's error, the cause in words, the ends of the containers' logs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mlops.azure import computes, endpoints
from mlops.azure.errors import explain as azures_sentence
from mlops.core.errors import MlopsError
from mlops.diagnosis import container_log
from mlops.diagnosis.known import Cause, explain
from mlops.machines import quota

if TYPE_CHECKING:
    from mlops.azure.session import Session
    from mlops.config.settings import Settings

LOG_LINES = 300
SHOWN_LINES = 30
TITLES = {"storage": "storage-initializer", "server": "inference-server"}


@dataclass(frozen=True, kw_only=True)
class Failure:
    """A failed deployment, explained.

    Attributes:
        error: Azure's error, with the cause, the hint and the ends of the logs added.
        cause: None where it is not known.
        logs: both containers' logs as read; empty where no deployment stands.
    """

    error: MlopsError
    cause: Cause | None
    logs: Mapping[str, str] = field(default_factory=dict)


def container_logs(session: Session, endpoint: str, slot: str, *, lines: int = LOG_LINES) -> dict[str, str]:
    """Both containers' logs by ``storage`` and ``server``; without those that cannot be read."""
    logs: dict[str, str] = {}
    for container in TITLES:
        try:
            logs[container] = endpoints.logs(session, endpoint, slot, container=container, lines=lines)
        except MlopsError as error:
            session.console.warn(f"the log of the {TITLES[container]} cannot be read: {error.message}")
    return logs


def failure(session: Session, settings: Settings, endpoint: str, slot: str, error: MlopsError) -> Failure:
    """Explain a deployment that failed, before anything deletes it; never raises.

    Returns:
        The very error, whose details now hold the cause in words, the events that warn and the ends of both logs, and
        whose hint is the cause's; the cause; the whole logs, to be kept.
    """
    logs: dict[str, str] = {}
    if _has_failed(session, endpoint, slot):
        logs = container_logs(session, endpoint, slot)
    text = _azures_words(error)
    family = _family(session, settings) if quota.shortage_in(text) else ""
    cause = explain(text, logs, settings.deployment, family=family)
    if cause is not None:
        error.hint = cause.hint
    error.details = (*error.details, *report_lines(cause, logs))
    return Failure(error=error, cause=cause, logs=logs)


def _azures_words(error: MlopsError) -> str:
    """What Azure said, its code included, which a translated error leaves out."""
    azures = error.__cause__
    if azures is None:
        return error.message
    code = getattr(getattr(azures, "error", None), "code", None) or ""
    return f"{code} {error.message} {azures_sentence(azures)}"


def report_lines(cause: Cause | None, logs: Mapping[str, str], *, lines: int = SHOWN_LINES) -> list[str]:
    """The cause, the events that warn and the ends of the logs, labelled, for people."""
    text = [f"cause: {cause.what}"] if cause else []
    events = container_log.warnings(logs.get("server", "")) or container_log.warnings(logs.get("storage", ""))
    if events:
        text += ["events:", *(f"  {event}" for event in events[-5:])]
    for container, title in TITLES.items():
        excerpt = container_log.excerpt(logs.get(container, ""), lines=lines)
        if excerpt:
            text += [f"log of the {title}:", *(f"  {line}" for line in excerpt)]
    return text


def _has_failed(session: Session, endpoint: str, slot: str) -> bool:
    """Whether the slot stands and has failed: the logs of one that works explain nothing."""
    try:
        deployments = endpoints.deployments(session, endpoint)
    except MlopsError:
        return False
    return any(item.name == slot and item.state.lower() == "failed" for item in deployments)


def _family(session: Session, settings: Settings) -> str:
    size_name = settings.deployment.instance_type.lower()
    try:
        return next((size.family for size in computes.sizes(session) if size.name.lower() == size_name), "")
    except MlopsError:
        return ""
