"""Who is let in: the token, the cookie made of it, hosts and origins."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from starlette.responses import PlainTextResponse

from mlops.ui.access import HEADERS, Guard

TOKEN = "the-token-of-this-page"
TICKET = "a-ticket-for-the-browser"
PORT = 8123
HERE = f"http://127.0.0.1:{PORT}"


async def inside(scope: Any, receive: Any, send: Any) -> None:
    await PlainTextResponse("inside", headers={"Cache-Control": "public"})(scope, receive, send)


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(Guard(inside, token=TOKEN, port=PORT, ticket=TICKET))
    async with httpx.AsyncClient(transport=transport, base_url=HERE) as http:
        yield http


async def test_without_the_token_nothing_is_shown(client: httpx.AsyncClient) -> None:
    for path in ("/", "/parts/endpoint", "/ask", "/releases/x/latency.png", "/?token=", "/?token=wrong"):
        answer = await client.get(path)
        assert answer.status_code == 403, path
        assert "inside" not in answer.text
        assert "address that mlops has printed" in answer.text


async def test_the_token_leaves_the_address_and_a_cookie_speaks_from_then_on(client: httpx.AsyncClient) -> None:
    answer = await client.get(f"/chat?token={TOKEN}&x=1")
    assert (answer.status_code, answer.headers["location"]) == (303, "/chat?x=1")
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=lax" in cookie
    assert TOKEN not in cookie

    assert (await client.get("/chat")).text == "inside"


async def test_a_ticket_opens_once_and_is_no_token(client: httpx.AsyncClient) -> None:
    assert (await client.head(f"/?ticket={TICKET}")).status_code == 403
    assert (await client.get("/v1/models", headers={"Authorization": f"Bearer {TICKET}"})).status_code == 401
    answer = await client.get(f"/?ticket={TICKET}")
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    assert (await client.get("/")).text == "inside"
    client.cookies.clear()
    assert (await client.get(f"/?ticket={TICKET}")).status_code == 403
    assert (await client.get("/?ticket=")).status_code == 403


async def test_the_cookie_opens_no_api_and_the_token_is_no_cookie(client: httpx.AsyncClient) -> None:
    await client.get(f"/?token={TOKEN}")
    (value,) = client.cookies.values()
    assert (await client.get("/v1/models", headers={"Authorization": f"Bearer {value}"})).status_code == 401
    assert (await client.get("/v1/models")).status_code == 401
    client.cookies.clear()
    assert (await client.get("/", headers={"Cookie": f"mlops-ui-{PORT}={TOKEN}"})).status_code == 403
    answer = await client.get("/v1/models", headers={"Authorization": f"Bearer {TOKEN}"})
    assert answer.text == "inside"


async def test_the_api_refuses_in_its_clients_words(client: httpx.AsyncClient) -> None:
    answer = await client.post("/v1/chat/completions", headers={"Authorization": "Bearer nope"})

    assert answer.status_code == 401
    assert answer.json()["error"]["type"] == "authentication_error"


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8123", "127.0.0.1.evil.example", "10.0.0.1:8123", ""])
async def test_a_foreign_host_is_refused(client: httpx.AsyncClient, host: str) -> None:
    answer = await client.get(f"/?token={TOKEN}", headers={"Host": host})

    assert answer.status_code == 421
    assert "set-cookie" not in answer.headers


@pytest.mark.parametrize("host", ["127.0.0.1:8123", "localhost:8123", "localhost:9999", "[::1]:8123", "LOCALHOST"])
async def test_a_tunnel_may_end_at_another_port(client: httpx.AsyncClient, host: str) -> None:
    assert (await client.get(f"/?token={TOKEN}", headers={"Host": host})).status_code == 303


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://127.0.0.1:9999", "https://127.0.0.1:8123"])
async def test_another_sites_page_is_refused_with_all_secrets(client: httpx.AsyncClient, origin: str) -> None:
    await client.get(f"/?token={TOKEN}")
    secrets = {"Origin": origin, "Authorization": f"Bearer {TOKEN}"}
    assert (await client.post("/ask", headers=secrets)).status_code == 403
    assert (await client.post("/v1/chat/completions", headers=secrets)).status_code == 403
    assert (await client.post("/ask", headers={"Origin": HERE})).text == "inside"


async def test_the_way_back_is_always_to_here(client: httpx.AsyncClient) -> None:
    answer = await client.get(f"{HERE}//evil.example/?token={TOKEN}")

    assert answer.headers["location"] == "/evil.example/"


async def test_every_answer_forbids_what_a_page_could_be_made_to_do(client: httpx.AsyncClient) -> None:
    refused = await client.get("/")
    await client.get(f"/?token={TOKEN}")
    allowed = await client.get("/")
    for answer in (refused, allowed):
        assert {name: answer.headers[name] for name in HEADERS} == HEADERS
        assert answer.headers.get_list("cache-control") == ["no-store"]
    assert "unsafe" not in HEADERS["Content-Security-Policy"]
