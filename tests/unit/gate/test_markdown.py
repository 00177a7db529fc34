from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from mlops import gate
from mlops.config.settings import Quality
from mlops.gate.markdown import cell
from tests.unit.gate.made import STRICT, answer, judged, released, sample


@pytest.fixture(scope="module")
def report() -> gate.Report:
    return released()


def failed() -> gate.Report:
    return judged(STRICT, [answer("no idea"), answer(None), answer("it is number 2")])


def unclear() -> gate.Report:
    free = STRICT.model_copy(update={"quality": {"rouge_l": Quality()}})
    ours = [answer("no idea" if at % 4 == 1 else f"it is number {at}") for at in range(16)]
    theirs = [answer("no idea" if at % 4 == 3 else f"it is number {at}") for at in range(16)]
    return judged(free, ours, theirs)


def test_the_summary_reads_from_the_verdict_to_the_worst_answers(report: gate.Report) -> None:
    text = gate.to_markdown(report)

    assert text.startswith(
        "### Gate ✓ passed: phi:1763726400 in green of chat\n\n50 conversations, blue asked the same"
    )
    order = [
        "| check |",
        "| quality |",
        "| speed |",
        "```mermaid",
        "🟦 new (green) · 🟧 live (blue)",
        "| soak at |",
        "| UTC |",
        "Furthest from their references:",
    ]
    places = [text.index(part) for part in order]
    assert places == sorted(places)
    assert "| 12:01:19 | blue 50 %, green 50 % | 50 % |  |" in text
    assert "difference, 95 % interval" in text
    assert "![" not in text


def test_a_failure_says_what_was_missed() -> None:
    text = gate.to_markdown(failed())

    assert text.startswith("### Gate ✕ failed")
    assert "| answered (HTTP 200) | 66.67 % | ≥ 100 % | ✕ |" in text
    assert "- HTTP 500" in text
    error = gate.refusal(failed(), Path("reports/one"))
    assert error.exit_code == 6
    assert "answered (HTTP 200) is 66.67 %, required: ≥ 100 %" in error.details
    assert error.details[-1] == "report and the slot's logs: reports/one"
    assert "--slot green --endpoint chat" in (error.hint or "")


def test_an_unclear_difference_is_handed_to_a_person() -> None:
    report = unclear()
    error = gate.undecided(report, Path("reports/one"))

    assert report.verdict == "inconclusive"
    assert error.exit_code == 7
    assert "after 16 conversations" in error.message
    assert "the allowed loss of 0.05 lies within" in error.details[0]
    assert "--skip-gate" in (error.hint or "")
    assert gate.summary_line(report).endswith("p95 10 ms")
    assert "difference unclear" in gate.summary_line(report)
    assert gate.to_markdown(report).startswith("### Gate ? could not decide")


def test_dry_runs_and_reported_values_are_told_from_decisions() -> None:
    dry = STRICT.model_copy(update={"dry_run": ["rouge_l"], "quality": {"rouge_l": Quality(min=1, max_loss=None)}})
    report = judged(dry, [answer("no idea")], [answer("no idea")])
    text = gate.to_markdown(report)

    assert report.verdict == "pass"
    assert "| ROUGE-L | 0 | ≥ 1 | (✕ dry run) |" in text
    assert "reported only |  |" in text


@pytest.mark.parametrize("make", [released, failed, unclear])
def test_a_line_for_the_terminal_is_short(make: object) -> None:
    assert callable(make)
    assert len(gate.summary_line(make())) <= 70


def test_what_a_model_says_stays_plain_text() -> None:
    says = "<img src=x> @team [click](http://x) `code` a|b \\| *bold*"
    text = gate.to_markdown(judged(STRICT, [answer(says)], samples=[sample()]))

    row = next(line for line in text.splitlines() if "click" in line)
    assert "<img" not in row
    assert "@team" not in row
    assert "[click](" not in row.replace("\\[click\\](", "")
    assert row.replace("\\|", "").count("|") == 6
    assert cell("a\nb") == "a b"


def test_notes_stand_above_the_tables(report: gate.Report) -> None:
    noted = replace(report, notes=("the live slot 'blue' answered none",))

    text = gate.to_markdown(noted)
    assert text.index("> the live slot 'blue'") < text.index("| check |")
