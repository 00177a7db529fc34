from __future__ import annotations

import dataclasses
import json
import math
from html.parser import HTMLParser
from pathlib import Path

import pytest

from chat_completion.data.general import CHATS
from chat_completion.evaluation.report import (
    Comparison,
    Row,
    code_block,
    diff_words,
    html,
    markdown,
    most_changed,
    write_report,
)
from chat_completion.evaluation.scores import Scores
from tests.support.checkout import ROOT

HOSTILE = '<script>alert("x")</script> </details> {{ 7 * 7 }} ```\n# heading | & "\'>'
BASE = Scores(2.0, math.exp(2), 0.5, math.nan, 20.0, 0.5, 0.0, 0.1)
TUNED = Scores(1.5, math.exp(1.5), 0.75, math.nan, 18.0, 0.25, 0.125, 0.1)


def comparison(rows: list[Row], name: str = "test") -> Comparison:
    losses = ((2.0, 1.0), (1.0, 1.5), (math.nan, math.nan))
    return Comparison(name, BASE, TUNED, (-0.7, -0.3), losses, short=1, rows=rows)


class Reader(HTMLParser):
    """The elements of a page, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href")]

    def handle_data(self, data: str) -> None:
        self.text += data


def test_what_models_and_data_say_is_text_and_nothing_else() -> None:
    page = Reader(html([comparison([Row(HOSTILE, HOSTILE, HOSTILE, f"{HOSTILE} more")])]))

    assert "script" not in page.tags
    assert page.tags.count("details") == 1
    assert page.text.count('<script>alert("x")</script> </details> {{ 7 * 7 }} ```') >= 4
    assert "49" not in page.text
    assert page.addresses == []  # nothing is fetched from anywhere


def test_the_table_says_what_became_better_and_what_was_not_measured(tmp_path: Path) -> None:
    write_report(tmp_path, [comparison([Row("q", "r", "a", "b")]), comparison([Row("q", "r", "a", "a")], "general")])
    lines = (tmp_path / "report.md").read_text().splitlines()

    assert "| loss (nats per answer token) | 2.0000 | 1.5000 | -0.5000 (-0.7000 … -0.3000) | better |" in lines
    assert "| exact match, short references | – | – | – |  |" in lines
    assert "| tokens per answer | 20.0 | 18.0 | -2.0 |  |" in lines  # shorter is neither better nor worse
    assert "| empty answers | 0.0% | 12.5% | +12.5% | worse |" in lines
    assert "| repeated four-word phrases | 10.0% | 10.0% | +0.0% |  |" in lines
    assert sum("most changed" in line for line in lines) == 1
    assert "the loss rose in 1 of 2." in "\n".join(lines)
    assert "General chats" in (tmp_path / "report.html").read_text()


def test_a_loss_that_is_no_number_is_called_so() -> None:
    broken = dataclasses.replace(TUNED, loss=math.nan, perplexity=math.nan)
    broken_comparison = dataclasses.replace(comparison([]), tuned=broken, interval=(math.nan, math.nan))
    assert "| loss (nats per answer token) | 2.0000 | no number | – | worse |" in markdown([broken_comparison])
    assert "no number" in html([broken_comparison])


def test_a_fence_is_longer_than_any_in_the_text() -> None:
    assert code_block("a ``` b ```` c").splitlines()[0] == "`````text"
    part = markdown([comparison([Row("p", HOSTILE, "a", "b")])])
    assert part.count("````text") == 1


def test_the_most_changed_come_first_and_the_unchanged_not_at_all() -> None:
    rows = [Row("1", "", "a b c d", "a b c x"), Row("2", "", "a b", "x y"), Row("3", "", "same", "same")]
    assert [row.prompt for row in most_changed(rows, 20)] == ["2", "1"]
    assert [row.prompt for row in most_changed(rows, 1)] == ["2"]


@pytest.mark.parametrize("text", ["", "The Swift  weighs\n17 kg.", HOSTILE, "x The Swift"])
def test_marking_loses_no_word(text: str) -> None:
    pieces = diff_words(text, "The Swift weighs 19 kg.")
    assert "".join(piece for piece, _ in pieces).split() == text.split()


def test_words_that_the_reference_has_not_are_marked() -> None:
    assert diff_words("The Heron weighs 26 kg.", "The Linnet weighs 17 kg.") == [
        ("The", True),
        (" Heron", False),
        (" weighs", True),
        (" 26", False),
        (" kg.", True),
    ]


def test_an_empty_set_has_a_report() -> None:
    empty = dataclasses.replace(comparison([]), losses=(), short=0)
    assert "0 conversations" in html([empty])


def test_the_general_chats_are_chats_and_stand_in_data_too() -> None:
    rows = [json.loads(line) for line in CHATS.read_text(encoding="utf-8").splitlines()]
    assert len(rows) >= 40
    assert (
        len({row["prompt_id"] for row in rows}) == len({json.dumps(row["messages"][:-1]) for row in rows}) == len(rows)
    )
    for row in rows:
        assert row["messages"][-1]["role"] == "assistant"
        assert row["messages"][-1]["content"].strip()
    assert (ROOT / "data" / "general.jsonl").resolve() == CHATS.resolve()
