"""Asking a deployed model: our own HTTP client, whose requests say exactly which slot they mean.

The SDK's ``invoke`` keeps its headers in a dictionary that all calls of a process share, so the name of a slot leaks
from one call into the next; it also has no timeout and takes only files.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mlops.azure import endpoints
from mlops.errors import AzureError, PreconditionError

if TYPE_CHECKING:
    import httpx

    from mlops.azure.session import Session

SLOT_HEADER = "azureml-model-deployment"
RETRIED = frozenset({429, 503})
"""Answers that mean "not now"; every other one is final."""
ATTEMPTS = 5


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What came back for one request.

    Attributes:
        status: the HTTP status; 408 too where this side gave up waiting, 0 where the endpoint was not reached.
        latency_ms: from the last attempt's first byte sent to its last byte read.
        texts: the generated answers, one per conversation; empty unless the request succeeded.
        slot: the deployment that answered, by its header.
        error: what went wrong, for people.
        raw: the body as it came.
    """

    status: int
    latency_ms: float
    texts: tuple[str, ...] = ()
    slot: str | None = None
    error: str | None = None
    raw: str = ""

    @property
    def ok(self) -> bool:
        """Whether a usable answer came."""
        return self.error is None


@dataclass(frozen=True, kw_only=True)
class Scorer:
    """An endpoint's address and key."""

    url: str
    key: str
    timeout_s: float = 90.0

    def ask(self, payload: Mapping[str, Any], *, slot: str | None = None) -> Answer:
        """One request, to the slot named or to live traffic."""
        return self.ask_all([payload], slots=[slot], concurrency=1)[0]

    def ask_all(
        self,
        payloads: Sequence[Mapping[str, Any]],
        *,
        slots: Sequence[str | None],
        concurrency: int,
        done: Callable[[], None] = lambda: None,
    ) -> list[Answer]:
        """Many requests, ``concurrency`` of them under way at a time; answers in the order of the payloads."""
        return asyncio.run(self._ask_all(payloads, slots, concurrency, done))

    async def _ask_all(
        self,
        payloads: Sequence[Mapping[str, Any]],
        slots: Sequence[str | None],
        concurrency: int,
        done: Callable[[], None],
    ) -> list[Answer]:
        import httpx

        gate = asyncio.Semaphore(concurrency)
        limits = httpx.Limits(max_connections=concurrency, max_keepalive_connections=concurrency)
        async with httpx.AsyncClient(timeout=self.timeout_s, limits=limits) as client:

            async def one(payload: Mapping[str, Any], slot: str | None) -> Answer:
                async with gate:
                    answer = await self._ask(client, payload, slot)
                    done()
                    return answer

            pairs = zip(payloads, slots, strict=True)
            return list(await asyncio.gather(*(one(payload, slot) for payload, slot in pairs)))

    async def _ask(self, client: httpx.AsyncClient, payload: Mapping[str, Any], slot: str | None) -> Answer:
        import httpx

        headers = {"Authorization": f"Bearer {self.key}"}
        if slot is not None:
            headers[SLOT_HEADER] = slot
        answer = Answer(status=0, latency_ms=0.0, error="not sent")
        for attempt in range(ATTEMPTS):
            begin = time.perf_counter()
            try:
                response = await client.post(self.url, json=dict(payload), headers=headers)
            except httpx.TimeoutException:
                waited_ms = (time.perf_counter() - begin) * 1000
                return Answer(status=408, latency_ms=waited_ms, error=f"no answer within {self.timeout_s:g} s")
            except httpx.HTTPError as error:
                waited_ms = (time.perf_counter() - begin) * 1000
                return Answer(status=0, latency_ms=waited_ms, error=f"{type(error).__name__}: {error}")
            answer = read(response, (time.perf_counter() - begin) * 1000)
            if answer.status not in RETRIED:
                return answer
            await asyncio.sleep(pause_s(response.headers.get("Retry-After"), attempt))
        return answer


def pause_s(retry_after: str | None, attempt: int) -> float:
    """How long to wait before the next attempt: what the server says, else 0.2 s doubled each time."""
    try:
        return min(float(retry_after or ""), 30.0)
    except ValueError:
        return float(0.2 * 2**attempt)


def read(response: httpx.Response, latency_ms: float) -> Answer:
    """Turn an HTTP answer into texts, or into the reason why there are none."""
    slot = response.headers.get(SLOT_HEADER)
    raw = response.text
    if response.status_code != 200:
        error = f"HTTP {response.status_code}: {reason(response)}"
        return Answer(status=response.status_code, latency_ms=latency_ms, slot=slot, error=error, raw=raw)
    try:
        texts = texts_of(response.json())
    except ValueError as problem:
        error = f"the answer is not of the agreed shape: {problem}"
        return Answer(status=200, latency_ms=latency_ms, slot=slot, error=error, raw=raw)
    return Answer(status=200, latency_ms=latency_ms, slot=slot, texts=texts, raw=raw)


def reason(response: httpx.Response) -> str:
    """Why a request was not answered: the server's own sentence, else the gateway's."""
    import contextlib

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


def scorer(session: Session, name: str, *, timeout_s: float) -> Scorer:
    """The scorer of an endpoint, its key fetched once.

    Raises:
        PreconditionError: there is no such endpoint.
    """
    found = endpoints.get(session, name)
    if found is None:
        raise PreconditionError(f"there is no endpoint '{name}'", hint="mlops deploy makes it")
    if not found.scoring_url:
        raise AzureError(f"the endpoint '{name}' has no scoring address yet (it is '{found.state}')", hint="try again")
    return Scorer(url=found.scoring_url, key=endpoints.key(session, name), timeout_s=timeout_s)
