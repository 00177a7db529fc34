"""Questions to the endpoint: to live traffic or to one slot, told piece by piece where the server streams.

The endpoint's key stays here. It is fetched once, and once more where the endpoint does not take it any longer.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mlops.scoring.client import Answer, Scorer, ScoringClient

if TYPE_CHECKING:
    from mlops.ui.ttl_cache import TtlCache

SCORER = "scorer"
KEEP_S = 600.0
AT_ONCE = 16
DENIED = (401, 403, 404)
"""Answers that may mean that the endpoint was made anew: its key or its address is another one."""


class Asker:
    """One endpoint, its connections kept open between questions; ``find`` looks up its address and its key."""

    def __init__(self, find: Callable[[], Scorer], cache: TtlCache) -> None:
        self._find = find
        self._cache = cache
        self._known: Scorer | None = None
        self._client: ScoringClient | None = None
        self._open = contextlib.AsyncExitStack()

    async def ask(
        self, messages: Sequence[Mapping[str, str]], parameters: Mapping[str, Any], *, slot: str | None
    ) -> AsyncIterator[str | Answer]:
        """The pieces of an answer as they come, and at the end the answer itself.

        Raises:
            MlopsError: there is no endpoint, or Azure does not give its key.
        """
        payload = {"input_data": {"input_string": list(messages), "parameters": dict(parameters)}, "params": {}}
        for attempt in (1, 2):
            line = await self._to_endpoint()
            async for event in _stream(line, payload, slot):
                if isinstance(event, Answer) and event.status in DENIED and attempt == 1:
                    self._cache.forget(SCORER)
                    break
                yield event
            else:
                return

    async def close(self) -> None:
        """Close the connections."""
        await self._open.aclose()

    async def _to_endpoint(self) -> ScoringClient:
        scorer = await self._cache.get(SCORER, self._find, keep_s=KEEP_S)
        if self._client is None or scorer != self._known:
            # what is under way on the old connections ends there: they are closed with the page
            self._client = await self._open.enter_async_context(scorer.connect(AT_ONCE))
            self._known = scorer
        return self._client


async def _stream(client: ScoringClient, payload: Mapping[str, Any], slot: str | None) -> AsyncIterator[str | Answer]:
    """One request; whoever stops listening stops it."""
    chunks: asyncio.Queue[str | None] = asyncio.Queue()
    request = asyncio.ensure_future(client.ask(payload, slot=slot, on_chunk=chunks.put_nowait))
    request.add_done_callback(lambda _: chunks.put_nowait(None))
    try:
        while (chunk := await chunks.get()) is not None:
            yield chunk
        yield await request
    finally:
        request.cancel()
