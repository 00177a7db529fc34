from __future__ import annotations

import httpx
import pytest

from mlops.endpoint import read


@pytest.mark.parametrize(
    ("status", "body", "headers", "says"),
    [
        (424, {"error": {"code": "BadRequest", "message": "temperature is 9"}}, {}, "HTTP 424: temperature is 9"),
        (424, "boom", {"ms-azureml-model-error-reason": "model raised"}, "HTTP 424: model raised"),
        (401, "", {}, "HTTP 401: Unauthorized"),
        (500, ["no object"], {}, 'HTTP 500: ["no object"]'),
    ],
)
def test_a_refusal_is_told_in_the_servers_own_words(
    status: int, body: object, headers: dict[str, str], says: str
) -> None:
    content = {"text": body} if isinstance(body, str) else {"json": body}
    answer = read(httpx.Response(status, headers=headers, **content), 1.0)

    assert answer.ok is False
    assert answer.error == says
    assert answer.texts == ()


def test_an_answer_that_is_no_json_is_not_of_the_agreed_shape() -> None:
    assert "agreed shape" in (read(httpx.Response(200, text="<html>"), 1.0).error or "")


def test_the_slot_that_answered_is_told() -> None:
    answer = read(httpx.Response(200, json={"output": "a"}, headers={"azureml-model-deployment": "blue"}), 1.0)

    assert (answer.ok, answer.slot, answer.texts) == (True, "blue", ("a",))
