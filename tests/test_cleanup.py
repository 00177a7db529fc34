from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlops.cleanup import age_of, created, decide
from mlops.errors import UsageError
from mlops.resources import Endpoint

NOW = datetime(2026, 11, 20, tzinfo=UTC)
PREFIX = "ultrachat-completion-"
OURS = {"managed-by": "mlops", "mlops-kind": "preview"}


def endpoint(name: str, tags: dict[str, str]) -> Endpoint:
    return Endpoint(name=name, state="Succeeded", auth_mode="key", scoring_url=None, tags=tags, traffic={"blue": 100})


def preview(age: timedelta, **tags: str) -> Endpoint:
    return endpoint(f"{PREFIX}{int((NOW - age).timestamp())}", {**OURS, **tags})


def stale(found: Endpoint, older_than: timedelta = timedelta(days=7)) -> bool:
    return decide(found, lasting="ultrachat-completion", prefix=PREFIX, older_than=older_than, now=NOW).delete


def test_an_old_preview_is_stale_and_a_young_one_is_not() -> None:
    assert stale(preview(timedelta(days=8)))
    assert not stale(preview(timedelta(days=6)))


@given(
    st.sampled_from(
        ["ultrachat-completion", "Ultrachat-Completion", f"{PREFIX}1", f"{PREFIX}1700000000", "demo", f"{PREFIX}x"]
    ),
    st.dictionaries(
        st.sampled_from(["managed-by", "mlops-kind", "keep", "mlops-created"]),
        st.sampled_from(["mlops", "preview", "lasting", "", "yes", "2020-01-01T00:00:00", "nonsense"]),
    ),
)
def test_what_is_protected_is_never_selected(name: str, tags: dict[str, str]) -> None:
    if stale(endpoint(name, tags)):
        assert name.lower() != "ultrachat-completion"
        assert tags["managed-by"] == "mlops"
        assert tags["mlops-kind"] == "preview"
        assert "keep" not in tags
        assert created(endpoint(name, tags), PREFIX) is not None


@pytest.mark.parametrize(
    ("text", "seconds"), [("7d", 604800), ("12h", 43200), ("30m", 1800), ("45s", 45), ("2", 172800), ("0d", 0)]
)
def test_ages_are_read(text: str, seconds: float) -> None:
    assert age_of(text).total_seconds() == seconds


@pytest.mark.parametrize("text", ["", "x", "-1d", "7 weeks", "d", "1e99d", "nan"])
def test_other_ages_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="no age"):
        age_of(text)
