"""What an answer cost: the line below it, and the same as a document."""

from __future__ import annotations

from typing import Any

from mlops.scoring.client import Answer


def tokens_per_s(answer: Answer) -> float | None:
    """Output tokens a second, over the whole wait; None where the server counts none."""
    if not answer.completion_tokens or answer.latency_ms <= 0:
        return None
    return answer.completion_tokens * 1000 / answer.latency_ms


def line(answer: Answer) -> str:
    """Slot, latency, tokens, tokens a second; what is not known is left out."""
    fields = [answer.slot or "", duration(answer.latency_ms)]
    if answer.first_ms is not None:
        fields.append(f"first word after {duration(answer.first_ms)}")
    if answer.completion_tokens is not None:
        fields.append(f"{answer.completion_tokens} token{'s' if answer.completion_tokens != 1 else ''}")
    pace = tokens_per_s(answer)
    if pace is not None:
        fields.append(f"{pace:.0f} tokens/s" if pace >= 10 else f"{pace:.1f} tokens/s")
    if answer.finish_reason == "length":
        fields.append("cut off: /params max_new_tokens=… lets it go on for longer")
    return " · ".join(part for part in fields if part)


def document(answer: Answer) -> dict[str, Any]:
    """The figures for machines; null is unknown."""
    pace = tokens_per_s(answer)
    return {
        "slot": answer.slot,
        "latency_ms": round(answer.latency_ms, 1),
        "prompt_tokens": answer.prompt_tokens,
        "completion_tokens": answer.completion_tokens,
        "tokens_per_s": None if pace is None else round(pace, 1),
        "finish_reason": answer.finish_reason,
        "attempts": answer.attempts,
    }


def duration(milliseconds: float) -> str:
    """``412 ms``, ``12.3 s``."""
    return f"{milliseconds:.0f} ms" if milliseconds < 10_000 else f"{milliseconds / 1000:.1f} s"
