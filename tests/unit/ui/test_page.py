"""The page of a real workspace: by HTTP, and with a real browser that looks and asks."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from mlops.azure import endpoints
from mlops.local.daemon import client as daemon
from tests.support.checkout import ROOT
from tests.support.waiting import HANG_S, until
from tests.unit.ui.conftest import HOSTILE, QUESTIONS, Page, Story, serving
from tests.unit.ui.test_escaping import Elements

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Locator, Route
    from playwright.sync_api import Page as Tab

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # the SDK's own, at each load of an environment
]
PAGES = ("/", "/chat", "/training", "/models")


def text(html: str) -> str:
    """What is read, without its elements."""
    return " ".join(re.sub(r"<[^>]+>", " ", html).split())


@pytest.fixture
def client(ui: Page) -> Iterator[httpx.Client]:
    with ui.client() as http:
        yield http


def test_a_page_is_there_at_once_and_whole_for_who_runs_no_scripts(client: httpx.Client, story: Story) -> None:
    for path in PAGES:
        bare, whole = client.get(path), client.get(path, params={"whole": "1"})
        assert (bare.status_code, whole.status_code) == (200, 200), path
        assert "data-part" in bare.text
        assert '<meta http-equiv="refresh" content="0; url=?whole=1">' in bare.text
        assert not any(tag == "script" for tag, _ in Elements(whole.text).elements)
    page = text(client.get("/?whole=1").text)
    for word in ("ultrachat-completion", story.versions[0], "100 %", "rollback", "feed0123", "0123abcd", story.job):
        assert word in page, word


def test_what_was_released_is_shown_with_its_report(client: httpx.Client, story: Story) -> None:
    listed = client.get("/parts/releases").text
    assert [word in text(listed) for word in ("deploy", "rollback", "✓ gate", "because")] == [True] * 4
    paths = re.findall(r'href="(/releases/[0-9a-f]+)"', listed)
    assert len(paths) == 3
    first = client.get(f"/parts/release/{paths[-1].rpartition('/')[2]}")
    assert "answered (HTTP 200) 100 %" in text(first.text)
    assert "12 conversations; nothing was live to compare with" in text(first.text)
    pictures = re.findall(r'src="([^"]+\.png)"', first.text)
    assert pictures
    for picture in pictures:
        answer = client.get(picture)
        assert answer.headers["content-type"] == "image/png"
        assert answer.content.startswith(b"\x89PNG")
    for wrong in ("report.json", "..%2freport.json", "server.log", "none.png"):
        assert client.get(f"{paths[-1]}/{wrong}").status_code == 404
    assert "does not lie on this machine" in text(client.get(f"/parts/release/{paths[0].rpartition('/')[2]}").text)
    assert client.get("/parts/release/0000").status_code == 404


def test_a_training_shows_its_losses_its_parameters_and_where_it_comes_from(client: httpx.Client, story: Story) -> None:
    curve = client.get(f"/parts/curve/{story.job}").text
    assert curve.count('class="line') == 2
    assert curve.count("<circle") == 22
    assert "exact match 0.25 → 0.75" in text(curve)
    job = text(client.get(f"/parts/job/{story.job}").text)
    for word in ("Completed", "finetune", "learning_rate 0.007", "0123abcd", "feed0123"):
        assert word in job, word
    missing = client.get("/parts/job/no-such-job")
    assert missing.status_code == 404
    assert "there is no job 'no-such-job'" in text(missing.text.replace("&#39;", "'"))


def test_models_show_their_lineage_and_where_they_stand(client: httpx.Client, story: Story) -> None:
    first, second = story.versions
    page = text(client.get("/parts/models").text)
    assert f"{first} blue ✕ evaluation failed ✓ passed the gate" in page
    assert "Registered nevertheless: good enough" in page
    assert f"{second} green" in page
    assert story.job in page


def test_hostile_words_stay_words(client: httpx.Client, story: Story) -> None:
    count = 0
    paths = ("endpoint", "releases", "jobs", "models", f"job/{story.job}", f"curve/{story.job}", "chat")
    for path in paths:
        html = client.get(f"/parts/{path}").text
        count += "&lt;script&gt;window.hacked" in html
        for tag, attributes in Elements(html).elements:
            assert tag not in ("script", "img"), path
            assert "javascript:" not in str(attributes.get("href"))
    assert count >= 4


def test_no_key_and_no_token_is_on_any_page(ui: Page, client: httpx.Client, story: Story) -> None:
    session = story.bench.session
    secrets = [endpoints.key(session, story.bench.settings.endpoint.name), ui.document["token"]]
    secrets += [session.credential.get_token("https://management.azure.com/.default").token]
    places = [*PAGES, f"/training/{story.job}"]
    everything = [client.get(path, params={"whole": "1"}).text for path in places]
    everything += [client.get(path).text for path in places]
    everything += [str(client.get(path).headers) for path in places]
    assert not [secret for secret in secrets for page in everything if secret in page]


def test_a_question_goes_to_live_traffic_or_to_a_slot(client: httpx.Client) -> None:
    def ask(question: str, slot: str | None) -> dict[str, Any]:
        body: dict[str, Any] = {"slot": slot, "messages": [{"role": "user", "content": question}], "parameters": {}}
        lines = client.post("/ask", json=body).text.splitlines()
        answer: dict[str, Any] = json.loads(lines[-1])["answer"]
        return answer

    assert [(ask("who?", slot)["text"], ask("who?", slot)["slot"]) for slot in (None, "blue", "green")] == [
        ("the first", "blue"),
        ("the first", "blue"),
        ("the second", "green"),
    ]
    reply = ask("question 1", None)
    assert (reply["tokens"], reply["error"]) == (5, None)
    assert reply["latency_ms"] > 0
    assert "HTTP 424" in ask("nobody knows this", "blue")["error"]
    assert "HTTP 404" in ask("who?", "red")["error"]


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"messages": []}, "is empty"),
        ({"messages": [{"role": "user", "content": ""}]}, "is empty"),
        ({"messages": [{"role": "user", "content": "x"}], "slot": 7}, "slot must be a name"),
        ({"messages": [{"role": "user", "content": "x"}], "slot": "grün"}, "slot must be a name"),
        ({"messages": [{"role": "user", "content": "x"}], "slot": "blue\nx: y"}, "slot must be a name"),
        ({"messages": [{"role": "user", "content": "x"}], "parameters": {"temperature": 9}}, "must be from 0 to 2"),
        ({"messages": [{"role": "user", "content": "\ud800"}]}, "a conversation"),
        ({}, "a conversation"),
        ([], "a conversation"),
    ],
)
def test_a_question_that_is_none_is_refused_before_it_is_sent(client: httpx.Client, body: Any, says: str) -> None:
    answer = client.post("/ask", content=json.dumps(body), headers={"Content-Type": "application/json"})

    assert answer.status_code == 400
    assert says in answer.json()["error"]


def test_a_form_of_another_page_asks_nothing(client: httpx.Client) -> None:
    body = json.dumps({"messages": [{"role": "user", "content": "x"}]})
    assert client.post("/ask", content=body, headers={"Content-Type": "text/plain"}).status_code == 400
    assert client.post("/ask", json={}, headers={"Origin": "https://evil.example"}).status_code == 403


def test_openai_style_clients_find_live_traffic_and_both_slots(ui: Page) -> None:
    headers = {"Authorization": f"Bearer {ui.document['token']}"}
    with httpx.Client(
        base_url=ui.document["openai_base_url"], headers=headers, timeout=HANG_S, trust_env=False
    ) as client:
        assert [model["id"] for model in client.get("/models").json()["data"]] == ["live", "blue", "green"]
        assert client.get("/models/blue").json()["id"] == "blue"
        assert client.get("/models/red").status_code == 404
        for model, expected in (("live", "the first"), ("blue", "the first"), ("green", "the second")):
            body: dict[str, Any] = {"model": model, "messages": [{"role": "user", "content": "who?"}]}
            answer = client.post("/chat/completions", json=body).json()
            assert answer["choices"][0]["message"]["content"] == expected
            assert answer["usage"]["total_tokens"] == 3
            events = client.post("/chat/completions", json={**body, "stream": True})
            assert events.headers["content-type"].startswith("text/event-stream")
            assert expected in events.text
            assert events.text.endswith("data: [DONE]\n\n")
        failing = client.post(
            "/chat/completions", json={"model": "live", "messages": [{"role": "user", "content": "?"}]}
        )
        assert (failing.status_code, failing.json()["error"]["type"]) == (502, "server_error")
        assert client.get("/nothing").json()["error"]["type"] == "invalid_request_error"


def test_where_azure_refuses_one_part_says_so_and_the_others_stand(client: httpx.Client, story: Story) -> None:
    rule = {"kind": "status", "status": 403, "times": None, "match": {"path": "/onlineEndpoints"}}
    faults("POST", rule)
    try:
        broken = client.get("/parts/endpoint", params={"fresh": "1"})
        assert broken.status_code == 502
        assert "look up the endpoint" in text(broken.text)
        assert "Look again" in broken.text
        assert client.get("/parts/jobs", params={"fresh": "1"}).status_code == 200
        models = client.get("/parts/models", params={"fresh": "1"})
        assert models.status_code == 200
        assert "where they stand cannot be read" in text(models.text)
    finally:
        faults("DELETE")
    assert client.get("/parts/endpoint", params={"fresh": "1"}).status_code == 200
    client.get("/parts/models", params={"fresh": "1"})


def faults(method: str, rule: dict[str, Any] | None = None) -> None:
    """Set a fault of the local workspace, or end them all."""
    daemon.request("faults", method=method, body=rule)


# -- with a browser ----------------------------------------------------------------------------------------------------


class Watched:
    """A tab that remembers what went wrong in it, and what it asked for."""

    def __init__(self, context: BrowserContext) -> None:
        self.tab: Tab = context.new_page()
        self.troubles: list[str] = []
        self.asked: list[str] = []
        self.tab.on("console", lambda message: self._heard(message.type, message.text))
        self.tab.on("pageerror", lambda error: self.troubles.append(str(error)))
        self.tab.on("request", lambda request: self.asked.append(request.url))

    def _heard(self, kind: str, text: str) -> None:
        if kind in ("error", "warning"):
            self.troubles.append(text)


@pytest.fixture
def watched(browser: Browser, ui: Page) -> Iterator[Watched]:
    context = browser.new_context(viewport={"width": 1280, "height": 860})
    context.set_default_timeout(1000 * HANG_S)
    pages = Watched(context)
    pages.tab.goto(ui.document["url"])
    yield pages
    context.close()
    assert pages.troubles == []
    assert {re.sub(r"^(https?://[^/]+).*", r"\1", url) for url in pages.asked} == {ui.base}


def test_open_look_and_walk_around(watched: Watched, ui: Page, story: Story) -> None:
    tab = watched.tab
    tab.locator(".slots .card.live").filter(has_text=story.versions[0]).wait_for()
    assert ui.document["token"] not in tab.url
    assert tab.locator("table.releases tbody tr:not(.why)").count() == 3
    assert tab.locator(".slots .card").count() == 2
    tab.locator("table.releases tbody tr:not(.why) a").first.click()
    tab.locator("table.records").wait_for()
    tab.locator("nav a", has_text="Training").click()
    tab.locator(".jobs .chart path.line").first.wait_for()  # the curve loads by itself
    tab.locator(".jobs h2 a", has_text=story.job).click()
    tab.locator("table.parameters td", has_text="0.007").wait_for()
    tab.locator("nav a", has_text="Models").click()
    tab.locator(f"#v{story.versions[0]}").wait_for()
    assert tab.evaluate("() => window.hacked") is None


def test_both_slots_are_asked_the_same_side_by_side(watched: Watched) -> None:
    tab = watched.tab
    tab.locator("nav a", has_text="Chat").click()
    question = tab.locator("#question")
    question.fill("who?")
    question.press("Enter")
    blue, green = tab.locator("[data-column=blue]"), tab.locator("[data-column=green]")
    blue.locator(".message.assistant", has_text="the first").wait_for()
    green.locator(".message.assistant", has_text="the second").wait_for()
    assert re.fullmatch(r"blue · \d+ ms · 2 tokens · [\d.]+ tokens/s", blue.locator(".figures").inner_text())
    question.fill("how many?")
    question.press("Enter")
    for column in (blue, green):  # it is one conversation: question, answer, question
        column.locator(".message.assistant", has_text="3 messages").wait_for()

    tab.locator("[name=mode][value=live]").check()
    assert not blue.is_visible()
    question.fill("mark up")
    tab.locator("[data-send]").click()
    live = tab.locator("[data-mode=live] .message.assistant")
    live.filter(has_text="window.hacked").wait_for()
    assert live.inner_text() == HOSTILE
    assert tab.evaluate("() => window.hacked") is None
    tab.locator("[data-clear]").click()
    assert tab.locator(".message").count() == 0


def test_the_chat_begins_however_late_its_script_comes(watched: Watched) -> None:
    held: list[Route] = []
    watched.tab.route("**/static/chat.js", lambda route: held.append(route))
    watched.tab.goto(f"{watched.tab.url.rstrip('/')}/chat", wait_until="commit")
    watched.tab.wait_for_timeout(500)  # time enough for the part, were it not for the script
    held[0].continue_()
    watched.tab.locator("#question").fill("who?")
    watched.tab.locator("#question").press("Enter")
    watched.tab.locator("[data-column=blue] .message.assistant", has_text="the first").wait_for()


def test_an_answer_is_read_while_it_is_written(watched: Watched, ui: Page, story: Story) -> None:
    tab = watched.tab
    tab.locator("nav a", has_text="Chat").click()
    tab.locator("#question").fill("tell me")
    tab.locator("#question").press("Enter")
    blue = tab.locator("[data-column=blue]")
    blue.locator(".message.pending", has_text=re.compile(r"^one two $")).wait_for()
    last_word = story.bench.folder / "three"
    last_word.touch()
    blue.locator(".message.assistant:not(.pending)", has_text="one two three").wait_for()
    assert "first words after" in blue.locator(".figures").inner_text()

    body = {"model": "live", "messages": [{"role": "user", "content": "tell me"}], "stream": True}
    headers = {"Authorization": f"Bearer {ui.document['token']}"}
    address, text = f"{ui.base}/v1/chat/completions", ""
    last_word.unlink()
    with httpx.stream("POST", address, json=body, headers=headers, timeout=HANG_S, trust_env=False) as answer:
        for line in answer.iter_lines():
            chunk = json.loads(line.removeprefix("data: ")) if line.startswith("data: {") else {"choices": []}
            text += "".join(choice["delta"].get("content") or "" for choice in chunk["choices"])
            if text == "one two ":
                last_word.touch()
    assert text == "one two three"


def test_what_is_not_answered_is_said_and_can_be_asked_again(watched: Watched, story: Story) -> None:
    tab = watched.tab
    tab.locator("nav a", has_text="Chat").click()
    question = tab.locator("#question")
    question.fill("nobody knows this")
    question.press("Enter")
    tab.locator("[data-column=blue] .message.failed", has_text="HTTP 424").wait_for()
    tab.locator("[data-column=green] .message.failed").wait_for()
    tab.locator("[data-stop]").wait_for(state="hidden")
    assert question.input_value() == "nobody knows this"
    question.fill("how many?")
    question.press("Enter")
    tab.locator("[data-column=blue] .message.assistant", has_text="1 messages").wait_for()
    question.fill("too much?")  # the context holds three messages
    question.press("Enter")
    tab.locator("[data-column=green] .message.assistant", has_text="3 messages").wait_for()
    question.fill("too much?")
    question.press("Enter")
    tab.locator("[data-column=green] .figures", has_text="the oldest turn is no longer sent").wait_for()
    tab.locator("[data-stop]").wait_for(state="hidden")
    question.fill("slowly")
    question.press("Enter")
    tab.locator("[data-stop]").click()
    tab.locator("[data-column=blue] .message.failed", has_text="stopped").wait_for()
    (story.bench.folder / "enough").touch()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_nothing_is_wider_than_the_screen(browser: Browser, ui: Page, story: Story, width: int, scheme: str) -> None:
    context = browser.new_context(
        viewport={"width": width, "height": 740}, color_scheme="dark" if scheme == "dark" else "light"
    )
    context.set_default_timeout(1000 * HANG_S)
    tab = context.new_page()
    tab.goto(ui.document["url"])
    for path in (*PAGES, f"/training/{story.job}"):
        tab.goto(ui.base + path)
        tab.locator("[data-part][aria-busy=true]").first.wait_for(state="detached")
        assert tab.evaluate("() => document.documentElement.scrollWidth") <= width, path
    context.close()


def test_without_scripts_the_browser_shows_the_same(browser: Browser, ui: Page, story: Story) -> None:
    context = browser.new_context(java_script_enabled=False)
    context.set_default_timeout(1000 * HANG_S)
    tab = context.new_page()
    tab.goto(ui.document["url"])

    def shows(locator: Locator) -> None:
        """Look again until it does: without scripts a page stays as it came."""
        tab.wait_for_url(re.compile("whole=1"))

        def is_there() -> bool:
            present = locator.count() > 0
            if not present:
                tab.reload()
            return present

        until(is_there, what=f"{locator}")

    shows(tab.locator(".slots .card.live").filter(has_text=story.versions[0]))
    tab.locator("nav a", has_text="Training").click()
    shows(tab.locator(".jobs h2 a", has_text=story.job))
    tab.locator(".jobs h2 a", has_text=story.job).click()
    shows(tab.locator(".chart path.line").first)
    tab.locator("nav a", has_text="Chat").click()
    shows(tab.get_by_text("mlops chat does the same in a terminal"))
    context.close()


def test_a_slow_azure_is_said_in_its_place(watched: Watched, ui: Page) -> None:
    tab = watched.tab
    tab.locator(".slots .card.live").wait_for()
    with asked_in_vain(ui):
        tab.goto(tab.url)
        tab.get_by_text("Azure has not answered yet").wait_for()
        tab.locator("table.releases").wait_for()
    tab.locator(".slots .card.live").wait_for()


@contextlib.contextmanager
def asked_in_vain(ui: Page) -> Iterator[None]:
    """Azure does not say how the endpoint is, which it has been asked, until the block ends."""
    with ui.client() as client, ThreadPoolExecutor(1) as pool:
        faults("POST", {"kind": "hang", "delay_s": 1e6, "times": None, "match": {"path": "/onlineEndpoints"}})
        try:
            request = pool.submit(client.get, "/parts/endpoint", params={"fresh": "1"})
            until(lambda: struck() > 0, what="the question")
            yield
        finally:
            faults("DELETE")
        with contextlib.suppress(httpx.HTTPError):  # where the page was closed meanwhile
            request.result(HANG_S)


def struck() -> int:
    """How many calls have met the fault."""
    (rule,) = daemon.request("faults")
    count: int = rule["matched"]
    return count


def test_a_part_that_azure_refused_comes_by_itself_when_it_answers(browser: Browser, ui: Page, story: Story) -> None:
    context = browser.new_context()
    context.set_default_timeout(1000 * HANG_S)
    tab = context.new_page()
    tab.goto(ui.document["url"])
    faults("POST", {"kind": "status", "status": 403, "times": None, "match": {"path": "/onlineEndpoints"}})
    try:
        with ui.client() as client:  # nothing is kept that is still good
            assert client.get("/parts/endpoint", params={"fresh": "1"}).status_code == 502
        tab.goto(f"{ui.base}/chat")
        tab.locator(".trouble", has_text="look up the endpoint").wait_for()
    finally:
        faults("DELETE")
    tab.locator("[data-chat]").wait_for()
    context.close()


def test_traffic_that_moves_is_seen_by_who_only_looks(watched: Watched, story: Story) -> None:
    session, name = story.bench.session, story.bench.settings.endpoint.name
    live = watched.tab.locator(".slots .card.live")
    live.filter(has_text=story.versions[0]).wait_for()
    endpoints.set_traffic(session, name, {"blue": 30, "green": 70})
    try:
        live.filter(has_text="70 %").wait_for()
        assert live.count() == 2
    finally:
        endpoints.set_traffic(session, name, {"blue": 100})


# -- the command -------------------------------------------------------------------------------------------------------


def test_ctrl_c_ends_it_well_and_the_port_may_be_chosen(ui: Page, story: Story) -> None:
    port = ui.base.rpartition(":")[2]
    command = [sys.executable, "-m", "mlops", "ui", "--no-browser", "--port", port]
    taken = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=HANG_S)
    assert taken.returncode == 3
    assert f"the port '{port}' is unavailable" in taken.stderr
    with serving("ui") as page:
        assert page.base.startswith("http://127.0.0.1:")
        assert httpx.get(page.base, trust_env=False).status_code == 403
        assert page.end() == 0
    assert "Traceback" not in "".join(page.said)


def test_ctrl_c_waits_for_no_answer_of_azures(story: Story) -> None:
    with serving("ui") as page:
        with asked_in_vain(page):
            assert page.end() == 0
            assert struck() == 1  # who waits gives up after a minute, and asks again
        assert "Traceback" not in "".join(page.said)


def test_a_workspace_that_was_restarted_is_found_again(client: httpx.Client, ui: Page, story: Story) -> None:
    for action in ("stop", "start"):
        subprocess.run([sys.executable, "-m", "mlops", "local", action], cwd=ROOT, check=True, capture_output=True)
    assert client.get("/parts/endpoint", params={"fresh": "1"}).status_code == 200

    def answer() -> str:
        answer = client.post("/ask", json={"messages": [{"role": "user", "content": "who?"}]})
        return str(json.loads(answer.text.splitlines()[-1])["answer"].get("text") or "")

    assert until(answer, what="an answer of the new scoring processes", every_s=0.2) == "the first"


def test_nothing_was_changed(client: httpx.Client, story: Story) -> None:
    """After all of it the endpoint is as the last rollout has left it, and answers."""
    endpoint = endpoints.get(story.bench.session, story.bench.settings.endpoint.name)
    assert endpoint is not None
    assert endpoint.live == ("blue",)
    answer = client.post("/ask", json={"messages": [{"role": "user", "content": "question 1"}]})
    assert json.loads(answer.text.splitlines()[-1])["answer"]["text"] == QUESTIONS["question 1"]
