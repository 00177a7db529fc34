"""Asking a deployed model: our own HTTP client, whose requests say exactly which slot they mean.

The SDK's ``invoke`` keeps its headers in a dictionary that all calls of a process share, so the name of a slot leaks
from one call into the next; it also has no timeout and takes only files.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlops.azure import endpoints
from mlops.core.retry import Backoff
from mlops.scoring.sse import KIND, SseReader

if TYPE_CHECKING:
    import ssl

    import httpx

    from mlops.azure.session import Session
    from mlops.core.resources import Endpoint

SLOT_HEADER = "azureml-model-deployment"
ChunkHandler = Callable[[str], None]
"""Called with each chunk of an answer as it comes."""
RETRIED = frozenset({429, 503})
"""Answers that mean "not now"; every other one is final."""
ATTEMPTS = 5
BACKOFF = Backoff(first_s=0.2, longest_s=30.0)
KEPT_S = 30.0
"""How long an idle connection is kept: over the pauses between rounds of a gate."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What came back for one request.

    Attributes:
        status: the HTTP status; 408 too where this side gave up waiting, 0 where the endpoint, or the slot that was
            asked, was not reached.
        latency_ms: from the last attempt's first byte sent to its last byte read.
        texts: the generated answers, one per conversation; empty unless the request succeeded.
        slot: the deployment that answered, by its header.
        error: what went wrong, for people.
        raw: the body as it came.
        completion_tokens: output tokens, where the server counts them (`usage.completion_tokens`).
        prompt_tokens: tokens of the question and all before it, where the server counts them.
        finish_reason: "stop", or "length" where the answer was cut off, if the server says.
        first_ms: until the first chunk of an answer that was told while it was written.
        attempts: how often it was sent; more than 1 after "not now".
    """

    status: int
    latency_ms: float
    texts: tuple[str, ...] = ()
    slot: str | None = None
    error: str | None = None
    raw: str = ""
    completion_tokens: int | None = None
    prompt_tokens: int | None = None
    finish_reason: str | None = None
    first_ms: float | None = None
    attempts: int = 1

    @property
    def ok(self) -> bool:
        """Whether a usable answer came."""
        return self.error is None


@dataclass(frozen=True, kw_only=True)
class Scorer:
    """An endpoint's address and key.

    Attributes:
        key: never shown, not even by ``repr``.
        timeout_s: longest wait for a whole answer, and for each byte of it.
        connect_timeout_s: longest wait for a connection.
        attempts: most times that one request is sent, when the answer is "not now"; 1 shows what a user would see.
    """

    url: str
    key: str = field(repr=False)
    timeout_s: float = 90.0
    connect_timeout_s: float = 10.0
    attempts: int = ATTEMPTS

    def ask(self, payload: Mapping[str, Any], *, slot: str | None = None) -> Answer:
        """One request, to the slot named or to live traffic."""
        return self.ask_all([payload], slots=[slot], concurrency=1)[0]

    def ask_all(
        self,
        payloads: Sequence[Mapping[str, Any]],
        *,
        slots: Sequence[str | None],
        concurrency: int,
    ) -> list[Answer]:
        """Many requests, ``concurrency`` of them under way at a time; answers in the order of the payloads."""

        async def ask() -> list[Answer]:
            async with self.connect(concurrency) as client:
                return await client.ask_all(payloads, slots=slots)

        return asyncio.run(ask())

    @contextlib.asynccontextmanager
    async def connect(self, concurrency: int) -> AsyncIterator[ScoringClient]:
        """Connections that are kept over many calls, ``concurrency`` of them."""
        import httpx

        limits = httpx.Limits(
            max_connections=concurrency, max_keepalive_connections=concurrency, keepalive_expiry=KEPT_S
        )
        timeout = httpx.Timeout(self.timeout_s, connect=min(self.connect_timeout_s, self.timeout_s))
        async with httpx.AsyncClient(timeout=timeout, limits=limits, verify=trust()) as client:
            yield ScoringClient(self, client, concurrency)


def trust() -> ssl.SSLContext:
    """The certificates that this process trusts; reading them takes longer than many an answer."""
    variables = tuple(os.environ.get(name) for name in ("SSL_CERT_FILE", "SSL_CERT_DIR"))
    return _trust(variables, tuple(Path(path).stat().st_mtime_ns if path else 0 for path in variables))


@functools.lru_cache(maxsize=2)
def _trust(_named: tuple[str | None, ...], _changed: tuple[int, ...]) -> ssl.SSLContext:
    import httpx

    return httpx.create_ssl_context()


class ScoringClient:
    """A scorer with its connections open."""

    def __init__(self, scorer: Scorer, client: httpx.AsyncClient, concurrency: int) -> None:
        self._scorer = scorer
        self._client = client
        self._semaphore = asyncio.Semaphore(concurrency)

    async def ask_all(
        self,
        payloads: Sequence[Mapping[str, Any]],
        *,
        slots: Sequence[str | None],
        seen: Callable[[int, Answer], None] = lambda _, __: None,
    ) -> list[Answer]:
        """Many requests, sent in their order as room is made; ``seen`` is told of each answer and its position."""

        async def one(index: int, payload: Mapping[str, Any], slot: str | None) -> Answer:
            async with self._semaphore:
                answer = await self.ask(payload, slot=slot)
            seen(index, answer)
            return answer

        pairs = zip(payloads, slots, strict=True)
        return list(await asyncio.gather(*(one(index, payload, slot) for index, (payload, slot) in enumerate(pairs))))

    async def ask(
        self, payload: Mapping[str, Any], *, slot: str | None = None, on_chunk: ChunkHandler | None = None
    ) -> Answer:
        """One request, sent again while the answer is "not now".

        With ``on_chunk`` the server is asked for a stream; one that does not stream answers whole.
        """
        import tenacity

        def last(state: tenacity.RetryCallState) -> tuple[Answer, str | None]:
            assert state.outcome is not None
            answered: tuple[Answer, str | None] = state.outcome.result()
            return answered

        retrying = tenacity.AsyncRetrying(
            stop=tenacity.stop_after_attempt(self._scorer.attempts),
            wait=lambda state: BACKOFF.pause_s(state.attempt_number, last(state)[1]),
            retry=tenacity.retry_if_result(lambda answered: answered[0].status in RETRIED),
            retry_error_callback=last,
        )
        answered: tuple[Answer, str | None] = await retrying(self._once, payload, slot, on_chunk)
        return replace(checked_slot(answered[0], slot), attempts=retrying.statistics["attempt_number"])

    async def _once(
        self, payload: Mapping[str, Any], slot: str | None, on_chunk: ChunkHandler | None
    ) -> tuple[Answer, str | None]:
        import httpx

        scorer = self._scorer
        headers = {"Authorization": f"Bearer {scorer.key}"}
        if slot is not None:
            headers[SLOT_HEADER] = slot
        if on_chunk is not None:
            headers["Accept"] = f"{KIND}, application/json"
        request = self._client.build_request("POST", scorer.url, json=dict(payload), headers=headers)
        start_s = time.perf_counter()
        try:
            # httpx limits the wait for each byte; a server that dribbles would never reach that.
            async with asyncio.timeout(scorer.timeout_s):
                response = await self._client.send(request, stream=on_chunk is not None)
                if on_chunk is not None:
                    async with contextlib.aclosing(response):
                        if response.status_code == 200 and response.headers.get("Content-Type", "").startswith(KIND):
                            return await read_stream(response, start_s, on_chunk), None
                        await response.aread()
        except httpx.ConnectTimeout:
            waited_ms = (time.perf_counter() - start_s) * 1000
            return Answer(status=0, latency_ms=waited_ms, error=f"no connection within {waited_ms / 1000:.3g} s"), None
        except (httpx.TimeoutException, TimeoutError):
            waited_ms = (time.perf_counter() - start_s) * 1000
            return Answer(status=408, latency_ms=waited_ms, error=f"no answer within {scorer.timeout_s:g} s"), None
        except httpx.HTTPError as error:
            waited_ms = (time.perf_counter() - start_s) * 1000
            return Answer(status=0, latency_ms=waited_ms, error=f"{type(error).__name__}: {error}"), None
        return read(response, (time.perf_counter() - start_s) * 1000), response.headers.get("Retry-After")


async def read_stream(response: httpx.Response, start_s: float, on_chunk: ChunkHandler) -> Answer:
    """Read an answer that is told while it is written.

    Args:
        response: open, its body not read.
        start_s: when the request was sent, by ``time.perf_counter``.
        on_chunk: called with each chunk.
    """
    import httpx

    reader, first_ms, error = SseReader(), None, None
    try:
        async for chunk in response.aiter_bytes():
            new = reader.feed(chunk)
            if new:
                first_ms = first_ms or (time.perf_counter() - start_s) * 1000
                on_chunk(new)
            if reader.error or reader.closed:
                break
    except ValueError as problem:
        error = f"the answer is not of the agreed shape: {problem}"
    except (httpx.ReadError, httpx.RemoteProtocolError):
        error = "the answer broke off"
    if error is None and (reader.error or not reader.ended):
        error = reader.error or "the answer broke off"
    usage = {"usage": reader.usage}
    return Answer(
        status=200,
        latency_ms=(time.perf_counter() - start_s) * 1000,
        slot=response.headers.get(SLOT_HEADER),
        texts=() if error else (reader.text,),
        error=error,
        raw=reader.text,
        completion_tokens=tokens(usage, "completion_tokens"),
        prompt_tokens=tokens(usage, "prompt_tokens"),
        finish_reason=reader.finish_reason,
        first_ms=first_ms,
    )


def checked_slot(answer: Answer, slot: str | None) -> Answer:
    """An answer of the slot that was asked; one that another slot gave in its place says nothing of it."""
    if slot is None or answer.slot is None or answer.slot.lower() == slot.lower():
        return answer
    error = f"'{answer.slot}' answered instead of '{slot}'"
    return replace(answer, status=0, texts=(), completion_tokens=None, error=error)


def read(response: httpx.Response, latency_ms: float) -> Answer:
    """Turn an HTTP answer into texts, or into the reason why there are none."""
    slot = response.headers.get(SLOT_HEADER)
    raw = response.text
    if response.status_code != 200:
        error = f"HTTP {response.status_code}: {reason(response)}"
        return Answer(status=response.status_code, latency_ms=latency_ms, slot=slot, error=error, raw=raw)
    try:
        body = response.json()
        texts = texts_of(body)
    except ValueError as problem:
        error = f"the answer is not of the agreed shape: {problem}"
        return Answer(status=200, latency_ms=latency_ms, slot=slot, error=error, raw=raw)
    why = body.get("finish_reason") if isinstance(body, dict) else None
    return Answer(
        status=200,
        latency_ms=latency_ms,
        slot=slot,
        texts=texts,
        raw=raw,
        completion_tokens=tokens(body, "completion_tokens"),
        prompt_tokens=tokens(body, "prompt_tokens"),
        finish_reason=why if isinstance(why, str) else None,
    )


def tokens(body: Any, name: str) -> int | None:
    """A count that an answer has in its ``usage``; None where it does not say."""
    usage = body.get("usage") if isinstance(body, dict) else None
    count = usage.get(name) if isinstance(usage, dict) else None
    return count if isinstance(count, int) and not isinstance(count, bool) and count >= 0 else None


def reason(response: httpx.Response) -> str:
    """Why a request was not answered: the server's own sentence, else the gateway's."""
    with contextlib.suppress(ValueError, KeyError, TypeError):
        return str(response.json()["error"]["message"])[:500]
    model_says = response.headers.get("ms-azureml-model-error-reason")
    return model_says or response.text[:300] or response.reason_phrase


def texts_of(body: Any) -> tuple[str, ...]:
    """The generated texts in an answer: ``{"output": text}`` or ``{"output": [text, …]}``.

    Azure's no-code scoring script answers with records (``[{"0": text}, …]``); they are read as well.

    Raises:
        ValueError: neither.
    """
    if isinstance(body, dict) and isinstance(body.get("output"), str):
        return (body["output"],)
    if isinstance(body, dict) and isinstance(body.get("output"), list):
        body = body["output"]
    if isinstance(body, list) and body:
        texts = [next(iter(item.values()), None) if isinstance(item, dict) and item else item for item in body]
        if all(isinstance(text, str) for text in texts):
            return tuple(str(text) for text in texts)
    raise ValueError(f"no text in {str(body)[:120]!r}")


def scorer(session: Session, name: str, *, timeout_s: float, endpoint: Endpoint | None = None) -> Scorer:
    """The scorer of an endpoint, its key fetched once.

    Args:
        session: the workspace.
        name: the endpoint's.
        timeout_s: longest wait for an answer.
        endpoint: the endpoint, where it was looked up already.

    Raises:
        PreconditionError: there is no such endpoint.
        AzureError: it has no address yet.
    """
    return Scorer(
        url=endpoints.required_address(endpoint or endpoints.required(session, name)),
        key=endpoints.key(session, name),
        timeout_s=timeout_s,
        connect_timeout_s=session.settings.http.connect_timeout_s,
    )
