"""What follows from how a rollout ended; every part of the program asks the outcome itself."""

from __future__ import annotations

import pytest

from mlops.cli.history import COLOURS
from mlops.ledger import Health, Outcome
from mlops.ui.rendering import mood

FOLLOWS: dict[Outcome, tuple[bool, bool, bool, Health]] = {
    # took_traffic, is_settled, is_final, health
    Outcome.RELEASED: (True, True, True, "good"),
    Outcome.ROLLED_BACK: (True, True, True, "good"),
    Outcome.UNCHANGED: (False, True, True, "good"),
    Outcome.RECOVERED: (False, True, False, "good"),
    Outcome.REFUSED: (False, False, True, "bad"),
    Outcome.UNDECIDED: (False, False, True, "doubt"),
    Outcome.RESTORED: (False, False, False, "bad"),
    Outcome.FAILED: (False, False, False, "bad"),
    Outcome.INTERRUPTED: (False, False, True, "doubt"),
    Outcome.OVERRULED: (False, False, True, "doubt"),
    Outcome.ABANDONED: (False, False, False, "doubt"),
    Outcome.UNFINISHED: (False, False, False, "doubt"),
    Outcome.RUNNING: (False, False, False, "running"),
}


@pytest.mark.parametrize("outcome", Outcome)
def test_what_follows_from_an_outcome(outcome: Outcome) -> None:
    assert (outcome.took_traffic, outcome.is_settled, outcome.is_final, outcome.health) == FOLLOWS[outcome]


@pytest.mark.parametrize("outcome", Outcome)
def test_the_page_and_the_terminal_show_an_outcome_alike(outcome: Outcome) -> None:
    shown = {"good": "green", "doubt": "yellow", "bad": "red", "busy": "cyan"}

    assert COLOURS[outcome.health] == shown[mood(outcome)]
