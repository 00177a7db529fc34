from __future__ import annotations

import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlops.scoring.sse import LONGEST_EVENT, SseReader


def event(content: str, **more: object) -> str:
    return f"data: {json.dumps({'choices': [{'delta': {'content': content}, **more}]}, ensure_ascii=False)}\n\n"


STORY = (
    ": a comment\n\n"
    + event("Die Brücke")
    + event(" ist\u2028 offen", finish_reason="stop").replace("\n", "\r\n")
    + 'data: {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2}}\n\n'
    + "data: [DONE]\n\n"
).encode()


@given(st.lists(st.integers(0, len(STORY)), max_size=12))
def test_it_does_not_matter_where_the_stream_is_cut(cuts: list[int]) -> None:
    places = [0, *sorted(cuts), len(STORY)]
    telling = SseReader()
    chunks = [telling.feed(STORY[start:end]) for start, end in itertools.pairwise(places)]

    assert "".join(chunks) == telling.text == "Die Brücke ist\u2028 offen"
    assert telling.usage == {"prompt_tokens": 3, "completion_tokens": 2}
    assert (telling.finish_reason, telling.ended, telling.closed, telling.error) == ("stop", True, True, None)


@pytest.mark.parametrize(
    "data", ['{"output": "a"}', '{"choices": [{"text": "a"}]}', '{"choices": [{"delta": {"content": "a"}}]}']
)
def test_each_shape_of_a_piece_is_read(data: str) -> None:
    assert SseReader().feed(f"event: delta\ndata: {data}\n\n".encode()) == "a"


def test_a_piece_without_text_is_no_text() -> None:
    telling = SseReader()
    assert telling.feed(b'data: {"choices": [{"delta": {"role": "assistant", "content": null}}]}\n\n') == ""
    assert telling.ended is False


@pytest.mark.parametrize(
    ("data", "says"), [('{"error": {"message": "no room"}}', "no room"), ('{"error": "no room"}', "no room")]
)
def test_an_error_in_the_stream_is_told(data: str, says: str) -> None:
    telling = SseReader()
    telling.feed(f"data: {data}\n\n".encode())
    assert telling.error == says


@pytest.mark.parametrize("data", [b"nonsense", b"[1]", b'"text"', b"\xff"])
def test_what_is_no_answer_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError):
        SseReader().feed(b"data: " + data + b"\n\n")


def test_an_event_without_end_is_refused() -> None:
    with pytest.raises(ValueError, match="bytes"):
        SseReader().feed(b"data: " + b"x" * LONGEST_EVENT)
