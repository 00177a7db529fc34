"""From values to HTML: every value is escaped, wherever it comes from."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlops.ledger import Outcome

if TYPE_CHECKING:
    from jinja2 import Environment
    from starlette.responses import HTMLResponse

HERE = Path(__file__).parent
SLOTS = ("blue", "green")
MOODS = {
    **{outcome.value: outcome.health for outcome in Outcome if outcome is not Outcome.RUNNING},
    **dict.fromkeys(("completed", "succeeded", "pass"), "good"),
    **dict.fromkeys(("failed", "fail", "canceled", "notresponding"), "bad"),
    **dict.fromkeys(("inconclusive", "paused", "skipped"), "doubt"),
}
"""How a state looks: good, bad, doubt; any other is under way."""
COMMIT = re.compile(r"[0-9a-f]{7,40}")
RUN = re.compile(r"(https://[^/]+/[^/]+/[^/]+)/actions/runs/\d+")


@cache
def _environment() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    from mlops.gate import markdown

    environment = Environment(
        loader=FileSystemLoader(HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "ago": ago,
        "age": age,
        "when": when,
        "iso": iso,
        "mood": mood,
        "slot_class": slot_class,
        "address": address,
        "commit_address": commit_address,
        "short": short,
        "figure": figure,
        "plain": spoken,
        "last_part": last_part,
    }
    environment.globals["words"] = markdown
    return environment


def render(template: str, **values: Any) -> str:
    """A template with its values."""
    return _environment().get_template(template).render(**values)


def page(template: str, *, status: int = 200, **values: Any) -> HTMLResponse:
    """A template as an answer."""
    from starlette.responses import HTMLResponse

    return HTMLResponse(render(template, **values), status)


def when(moment: datetime) -> str:
    """A time of this machine, to the second today, else to the minute."""
    here, now = moment.astimezone(), datetime.now().astimezone()
    if here.date() == now.date():
        return f"{here:%H:%M:%S}"
    return f"{here:%d %b %H:%M}" if here.year == now.year else f"{here:%d %b %Y}"


def ago(moment: datetime) -> str:
    """How long it is since then."""
    since = age(datetime.now(UTC) - moment)
    return f"{since} ago" if since else "just now"


def age(span: timedelta) -> str:
    """A time span in whole units, as a page that stays open shows it; empty for less than a minute."""
    minutes = int(span.total_seconds() // 60)
    for unit, size in (("d", 1440), ("h", 60), ("min", 1)):
        if minutes >= size * (2 if size > 1 else 1):
            return f"{minutes // size} {unit}"
    return ""


def iso(moment: datetime) -> str:
    """For machines and for the pointer that rests on it."""
    return moment.astimezone(UTC).isoformat(timespec="seconds")


def mood(state: str) -> str:
    """The class of a state's look."""
    return MOODS.get(state.lower(), "busy")


def slot_class(slot: str) -> str:
    """A slot's colour; one of another name has none."""
    return f"slot-{slot}" if slot in SLOTS else "slot-other"


def address(url: str | None) -> str | None:
    """An address that may be a link: a value from Azure could be ``javascript:…``."""
    return url if url and url.startswith(("https://", "http://")) else None


def commit_address(tags: Mapping[str, str]) -> str | None:
    """Where a commit can be read: beside the run that the tags name."""
    commit, run = tags.get("commit", ""), RUN.fullmatch(tags.get("run-url", ""))
    return f"{run[1]}/commit/{commit}" if run and COMMIT.fullmatch(commit) else None


def short(text: str, characters: int = 12) -> str:
    """A hash as people compare it; the mark of a changed checkout stays."""
    head, dash, rest = text.partition("-")
    return head[:characters] + dash + rest if COMMIT.fullmatch(head) else text


def figure(value: float | None) -> str:
    """A measured value, short; a dash where there is none."""
    if value is None or value != value:
        return "–"
    if abs(value) >= 1000:
        return f"{value:,.0f}".replace(",", "\N{NARROW NO-BREAK SPACE}")
    return f"{value:.4g}"


def last_part(value: str) -> str:
    """A path's end; anything else whole."""
    return value.rstrip("/").rsplit("/", 1)[-1] if value.startswith("azureml:") else value


def spoken(name: str) -> str:
    """An identifier as words."""
    return name.replace("_", " ").replace("-", " ")
