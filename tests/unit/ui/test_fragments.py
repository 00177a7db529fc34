"""A fragment that fails says so where it would stand, whatever it was."""

from __future__ import annotations

import logging

import pytest

from mlops.core.errors import AzureError, PreconditionError
from mlops.ui.fragments import Fragment, rendered
from mlops.ui.ttl_cache import TtlCache


def failing(error: Exception) -> Fragment:
    def ask() -> None:
        raise error

    return Fragment(key="it", ask=ask, template="models.html", values=lambda models: {"models": models})


@pytest.mark.parametrize(
    ("error", "status", "says"),
    [
        (
            AzureError("Azure broke", hint="try again", details=["a line"]),
            502,
            ["Azure broke", "→ try again", "a line"],
        ),
        (PreconditionError("there is none"), 404, ["there is none"]),
        (KeyError("surprise"), 500, ["a bug in mlops: KeyError: &#39;surprise&#39;"]),
    ],
)
async def test_what_went_wrong_is_told_with_what_to_do(
    error: Exception, status: int, says: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR, "mlops.ui"):
        html, code = await rendered(TtlCache(), failing(error))

    assert code == status
    assert all(word in html for word in [*says, "Look again"])
    assert ("Traceback" in caplog.text) is (status == 500)  # in the terminal, never on the page
    assert "Traceback" not in html


async def test_a_template_that_fails_is_a_bug_too(caplog: pytest.LogCaptureFixture) -> None:
    part = Fragment(key="it", ask=lambda: None, template="models.html", values=lambda _: {})
    html, code = await rendered(TtlCache(), part)

    assert code == 500
    assert "UndefinedError" in html
