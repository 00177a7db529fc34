"""Asking an endpoint the next question, with as much of the conversation as fits."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, replace
from types import TracebackType

from mlops.chat.context_window import ContextWindow, fitting, is_refusal, refused
from mlops.chat.conversation import Conversation, Turn, whole
from mlops.scoring.client import Answer, ChunkHandler, Scorer, ScoringClient


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What a question brought.

    Attributes:
        conversation: with the turn where there is an answer, else as it was; what does not fit is left out of it.
        answer: as it came.
        newly_left_out: how many turns more than before are no longer sent.
    """

    conversation: Conversation
    answer: Answer
    newly_left_out: int


class Asker:
    """A line to one endpoint that is kept open over a chat; Ctrl-C while it asks raises KeyboardInterrupt at once."""

    def __init__(self, scorer: Scorer, *, slot: str | None) -> None:
        self._scorer = scorer
        self._slot = slot
        self._window: ContextWindow | None = None
        self._runner = asyncio.Runner()
        self._stack = contextlib.AsyncExitStack()
        self._client: ScoringClient | None = None

    def __enter__(self) -> Asker:
        self._runner.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._runner.run(self._stack.aclose())
        self._runner.__exit__(kind, value, trace)

    def ask(self, conversation: Conversation, question: str, *, on_chunk: ChunkHandler | None = None) -> Asked:
        """Ask; turns that do not fit are left out, the oldest first.

        Args:
            conversation: what was said before.
            question: what is asked.
            on_chunk: called with each chunk of the answer, where the server streams.
        """
        return self._runner.run(self._ask(conversation, question, on_chunk))

    async def _ask(self, before: Conversation, question: str, on_chunk: ChunkHandler | None) -> Asked:
        if self._client is None:
            self._client = await self._stack.enter_async_context(self._scorer.connect(1))
        attempt = fitting(before, question, self._window)
        while True:
            answer = await self._client.ask(attempt.payload(question), slot=self._slot, on_chunk=on_chunk)
            shorter = self._shorter(attempt, question, answer)
            if shorter is None:
                break
            attempt = shorter
        newly = attempt.left_out - before.left_out
        if not answer.ok:
            return Asked(conversation=before, answer=answer, newly_left_out=0)
        answer = replace(answer, texts=(whole(answer.texts[0]),))
        turn = Turn(
            question=question,
            answer=answer.texts[0],
            slot=answer.slot,
            latency_ms=round(answer.latency_ms, 1),
            completion_tokens=answer.completion_tokens,
        )
        return Asked(conversation=attempt.answered(turn), answer=answer, newly_left_out=newly)

    def _shorter(self, attempt: Conversation, question: str, answer: Answer) -> Conversation | None:
        """The conversation with less of it, where it was too long and there is something to leave out."""
        remaining = len(attempt.turns) - attempt.left_out
        if not remaining or not is_refusal(answer.status, answer.error):
            return None
        self._window = refused(answer.error, attempt, question) or self._window
        if self._window is None:  # it does not say how much is too much
            return replace(attempt, left_out=attempt.left_out + (remaining + 1) // 2)
        return replace(attempt, left_out=max(fitting(attempt, question, self._window).left_out, attempt.left_out + 1))
