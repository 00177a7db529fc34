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
    from mlops.ui.ttl_cache import TtlCache

log = logging.getLogger(__name__)
SOON_S, LATER_S, LONG_S = 4.0, 15.0, 3600.0
"""How long an answer is good: what moves, what moves seldom, what has ended."""


@dataclass(frozen=True, kw_only=True)
class Fragment:
    """One part.

    Attributes:
        key: what is asked; parts that ask the same share the answer.
        ask: asks it.
        template: shows it.
        values: what the template needs of the answer.
        keep_s: how long the answer is good.
        target_flag: what a command that is named needs to mean this target.
    """

    key: str
    ask: Callable[[], Any]
    template: str
    values: Callable[[Any], Mapping[str, Any]]
    keep_s: Callable[[Any], float] = lambda _: SOON_S
    target_flag: str = ""


def fragment(session: Session, kind: str, name: str = "") -> Fragment | None:
    """A part of the page by its kind, and by the name of what it shows where there are many; None for no such kind."""
    content = _fragment(session, kind, name)
    return content and replace(content, target_flag=session.settings.target_flag)


def _fragment(session: Session, kind: str, name: str) -> Fragment | None:
    if kind in ("endpoint", "chat"):
        return Fragment(
            key="overview",
            ask=partial(overview.read_overview, session),
            template=f"{kind}.html",
            values=lambda answer: {"overview": answer},
        )
    if kind in ("releases", "release"):
        return Fragment(
            key="releases",
            ask=partial(releases.read_releases, session),
            template=f"{kind}.html",
            values=(lambda answer: {"releases": answer}) if kind == "releases" else partial(_release, name),
        )
    if kind == "jobs":
        return Fragment(
            key="jobs",
            ask=partial(trainings.newest, session),
            template="jobs.html",
            values=lambda answer: {"jobs": answer, "experiment": session.settings.experiment},
        )
    if kind == "job":
        return Fragment(
            key=f"job {name}",
            ask=partial(trainings.read_training, session, name),
            template="job.html",
            values=lambda training: {"training": training, "settings": session.settings.training.parameters},
            keep_s=lambda training: SOON_S if training.job.is_running else LONG_S,
        )
    if kind == "curve":
        return Fragment(
            key=f"curve {name}",
            ask=partial(trainings.logged, session, name),
            template="curve.html",
            values=_curve,
            keep_s=lambda log: SOON_S if log.job.is_running else LONG_S,
        )
    if kind == "models":
        return Fragment(
            key="models",
            ask=partial(versions.read_versions, session),
            template="models.html",
            values=lambda answer: {"models": answer},
            keep_s=lambda _: LATER_S,
        )
    return None


async def rendered(cache: TtlCache, content: Fragment) -> tuple[str, int]:
    """A part as HTML, with the HTTP status that says whether it could be found."""
    try:
        answer = await cache.get(content.key, content.ask, keep_s=content.keep_s)
        return render(content.template, target_flag=content.target_flag, **content.values(answer)), 200
    except MlopsError as error:
        status = 404 if isinstance(error, PreconditionError) else 502
        return render("trouble.html", message=error.message, hint=error.hint, details=error.details), status
    except Exception as error:
        log.exception("the part '%s' of the page", content.key)
        text = f"a bug in mlops: {type(error).__name__}: {error}"
        return render("trouble.html", message=text, hint=None, details=()), 500


def _release(rollout: str, history: releases.Releases) -> Mapping[str, Any]:
    release = history.of(rollout)
    if release is None:
        raise PreconditionError(
            f"'{history.endpoint}' has no rollout '{rollout}' on record", hint="mlops endpoint history lists them"
        )
    return {"endpoint": history.endpoint, "release": release}


def _curve(log: trainings.Logged) -> Mapping[str, Any]:
    return {
        "job": log.job,
        "chart": charts.chart(log.metrics.curves),
        "scores": trainings.scores(log.metrics.last),
        "metrics": dict(sorted(log.metrics.last.items())),
    }
