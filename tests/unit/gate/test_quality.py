from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlops.core.errors import UsageError
from mlops.gate.quality import exact_match, metric, rouge_l, score, title

OWN = """
import math

SIZE = 3

def length(answer, reference):
    return min(len(answer) / len(reference), 1)

def nothing(answer, reference):
    return math.nan

def much(answer, reference):
    return 12

def breaks(answer, reference):
    raise ValueError("no")

def vague(answer, reference):
    return None
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A module beside mlops.yaml."""
    (tmp_path / "mlops.yaml").write_text("defaults: {}\n", encoding="utf-8")
    (tmp_path / "own_metrics.py").write_text(OWN, encoding="utf-8")
    (tmp_path / "needs_more.py").write_text("import no_such_thing_at_all\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLOPS_SETTINGS", raising=False)
    yield
    sys.modules.pop("own_metrics", None)


def test_kept_scores_do_not_see_case_and_space() -> None:
    assert exact_match("  The  Answer ", "the answer") == 1
    assert rouge_l("the answer is blue", "the answer is blue") == 1
    assert rouge_l("Blue is it", "it is blue") == pytest.approx(1 / 3)
    assert rouge_l("…", "x") == 0


def test_a_metric_of_ones_own_is_found_beside_the_settings(own: None) -> None:
    before = list(sys.path)

    assert metric("own_metrics:length")("ab", "abcd") == 0.5
    assert sys.path == before
    assert title("own_metrics:length") == "length"


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("rouge", "'rouge' is no metric; did you mean 'rouge_l'?"),
        ("bleu", "known are exact_match, rouge_l, and module:function"),
        ("own_metrics:size", "'own_metrics' has no 'size'"),
        ("own_metrics:SIZE", "names no function"),
        ("no_such_module:x", "No module named 'no_such_module'"),
        ("needs_more:x", "No module named 'no_such_thing_at_all'"),
        (":x", "is no module's name"),
        ("../x:y", "is no module's name"),
    ],
)
def test_a_name_that_is_none_is_told_with_where_it_stands(own: None, name: str, says: str) -> None:
    with pytest.raises(UsageError, match=r"gate\.quality") as caught:
        metric(name)

    assert says in caught.value.message
    assert str(caught.value.location) == "mlops.yaml"


@pytest.mark.parametrize("name", ["nothing", "much", "breaks", "vague"])
def test_what_is_no_score_is_nan(own: None, name: str) -> None:
    assert math.isnan(score(metric(f"own_metrics:{name}"), "a", "b"))


@pytest.mark.parametrize("text", [None, "", "  "])
def test_no_answer_scores_nothing(own: None, text: str | None) -> None:
    assert score(metric("own_metrics:breaks"), text, "b") == 0


@given(st.text(), st.text())
def test_kept_metrics_stay_in_their_range(text: str, reference: str) -> None:
    for kept in (exact_match, rouge_l):
        value: Any = score(kept, text, reference)
        assert 0 <= value <= 1
