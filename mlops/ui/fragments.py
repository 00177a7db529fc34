"""The parts of the page: what each asks of Azure, how long the answer is good, and the template that shows it.

Each part loads on its own. One that Azure does not answer says so in its place, with what to do; the others stand.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from mlops.core.errors import MlopsError, PreconditionError
from mlops.ui import charts, overview, releases, trainings, versions
from mlops.ui.rendering import render

if TYPE_CHECKING:
    from mlops.azure.session import Session
    from mlops.ui.ttl_cache import Shelf

log = logging.getLogger(__name__)
SOON_S, LATER_S, LONG_S = 4.0, 15.0, 3600.0
"""How long an answer is good: what moves, what moves seldom, what has ended."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """One part.

    Attributes:
        key: what is asked; parts that ask the same share the answer.
        ask: asks it.
        template: shows it.
        values: what the template needs of the answer.
        keep_s: how long the answer is good.
        at: what a command that is named needs to mean this target.
    """

    key: str
    ask: Callable[[], Any]
    template: str
    values: Callable[[Any], Mapping[str, Any]]
    keep_s: Callable[[Any], float] = lambda _: SOON_S
    at: str = ""


def part(session: Session, kind: str, name: str = "") -> Part | None:
    """A part of the page by its kind, and by the name of what it shows where there are many; None for no such kind."""
    found = _part(session, kind, name)
    if found is None or session.settings.is_local:
        return found
    return replace(found, at=f" --target {session.settings.target}")


def _part(session: Session, kind: str, name: str) -> Part | None:
    if kind in ("endpoint", "chat"):
        return Part(
            key="overview",
            ask=partial(overview.look, session),
            template=f"{kind}.html",
            values=lambda found: {"overview": found},
        )
    if kind in ("releases", "release"):
        return Part(
            key="releases",
            ask=partial(releases.look, session),
            template=f"{kind}.html",
            values=(lambda found: {"releases": found}) if kind == "releases" else partial(_release, name),
        )
    if kind == "jobs":
        return Part(
            key="jobs",
            ask=partial(trainings.newest, session),
            template="jobs.html",
            values=lambda found: {"jobs": found, "experiment": session.settings.experiment},
        )
    if kind == "job":
        return Part(
            key=f"job {name}",
            ask=partial(trainings.look, session, name),
            template="job.html",
            values=lambda found: {"training": found, "wanted": session.settings.training.parameters},
            keep_s=lambda found: SOON_S if found.job.is_running else LONG_S,
        )
    if kind == "curve":
        return Part(
            key=f"curve {name}",
            ask=partial(trainings.logged, session, name),
            template="curve.html",
            values=_curve,
            keep_s=lambda found: SOON_S if found.job.is_running else LONG_S,
        )
    if kind == "models":
        return Part(
            key="models",
            ask=partial(versions.look, session),
            template="models.html",
            values=lambda found: {"models": found},
            keep_s=lambda _: LATER_S,
        )
    return None


async def shown(shelf: Shelf, wanted: Part) -> tuple[str, int]:
    """A part as HTML, with the HTTP status that says whether it could be found."""
    try:
        found = await shelf.get(wanted.key, wanted.ask, keep_s=wanted.keep_s)
        return render(wanted.template, at=wanted.at, **wanted.values(found)), 200
    except MlopsError as error:
        status = 404 if isinstance(error, PreconditionError) else 502
        return render("trouble.html", message=error.message, hint=error.hint, details=error.details), status
    except Exception as error:
        log.exception("the part '%s' of the page", wanted.key)
        text = f"a bug in mlops: {type(error).__name__}: {error}"
        return render("trouble.html", message=text, hint=None, details=()), 500


def _release(rollout: str, found: releases.Releases) -> Mapping[str, Any]:
    release = found.of(rollout)
    if release is None:
        raise PreconditionError(
            f"'{found.endpoint}' has no rollout '{rollout}' on record", hint="mlops endpoint history lists them"
        )
    return {"endpoint": found.endpoint, "release": release}


def _curve(found: trainings.Logged) -> Mapping[str, Any]:
    return {
        "job": found.job,
        "chart": charts.chart(found.metrics.curves),
        "scores": trainings.scores(found.metrics.last),
        "metrics": dict(sorted(found.metrics.last.items())),
    }
