"""The chat page in a real Chromium, against a real server and model."""

import json
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ..support.server_fixtures import Running, running_server, save_adapter

playwright = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")


@pytest.fixture(scope="module")
def server(smollm2_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    adapter = save_adapter(tmp_path_factory.mktemp("adapter"), 576, 576)
    with running_server({"smollm2": smollm2_folder}, {"odd": adapter}) as running:
        yield running


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as runner:
        chromium = runner.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser: Any, server: Running) -> Iterator[Any]:
    """A fresh page; whatever it complains about, or submissions of another server, fails the test."""
    context = browser.new_context(viewport={"width": 1100, "height": 800})
    opened, complaints = context.new_page(), []
    opened.set_default_timeout(60_000)
    opened.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    opened.on("pageerror", lambda error: complaints.append(str(error)))
    opened.on("request", lambda r: None if r.url.startswith(server.url) else complaints.append(r.url))
    opened.goto(server.url)
    opened.wait_for_selector("#model option", state="attached")
    yield opened
    context.close()
    assert complaints == []


def set_up(page: Any, **settings: str) -> None:
    """Fill fields of the settings dialog."""
    if not page.is_visible("#open-settings"):
        page.click("#open-sidebar")
    page.click("#open-settings")
    for name, value in settings.items():
        page.fill(f"[data-setting={name}]", value)
    page.click("#settings button[value=close]")


def ask(page: Any, text: str) -> None:
    page.fill("#composer-text", text)
    page.press("#composer-text", "Enter")


def finished(page: Any) -> str:
    """Wait for the end of the answer and return the last message's text."""
    page.wait_for_selector("#send:visible")
    text: str = page.locator(".message.assistant .body").last.inner_text()
    return text


def test_a_chat_streams_shows_its_rate_and_survives_a_reload(page: Any) -> None:
    set_up(page, max_tokens="12", temperature="0")
    ask(page, "What is the capital of France?")
    assert "Paris" in finished(page)
    stats = page.locator(".stats").last.inner_text()
    assert re.search(r"\d+ tokens · [\d.]+ tokens/s", stats)
    playwright.expect(page.locator("#memory")).to_have_text(re.compile(r"[\d.]+ GB"), timeout=60_000)
    page.reload()
    assert page.locator(".message").count() == 2
    assert "Paris" in page.locator(".message.assistant .body").inner_text()
    assert page.locator("#conversations .current").inner_text().startswith("What is the capital")


def test_an_edited_message_is_answered_anew_and_what_came_after_is_gone(page: Any) -> None:
    set_up(page, max_tokens="8", temperature="0")
    ask(page, "What is the capital of France?")
    finished(page)
    ask(page, "Thank you.")
    finished(page)
    assert page.locator(".message").count() == 4
    page.locator(".message.user .edit").first.click()
    page.fill(".message textarea", "What is the capital of Italy?")
    page.press(".message textarea", "Enter")
    assert "Paris" not in finished(page)
    assert page.locator(".message.user .body").inner_text() == "What is the capital of Italy?"
    assert page.locator(".message").count() == 2


def test_stop_keeps_what_was_written_and_frees_the_model(page: Any, server: Running) -> None:
    ask(page, "Tell me a very long story about a fox.")
    page.wait_for_selector(".message.assistant .body:not(.waiting)")
    page.click("#stop")
    assert finished(page)
    assert page.locator(".stats").last.inner_text() == "stopped"
    deadline = time.monotonic() + 60
    while any(model["running"] for model in server.get("/status").json()["models"]):
        assert time.monotonic() < deadline, "the model goes on writing"
        time.sleep(0.05)


def test_a_message_edited_before_its_answer_began_is_answered_in_full(page: Any) -> None:
    """The answer that was broken off takes nothing of the new one with it, and the new one is seen as it comes."""
    set_up(page, max_tokens="60", temperature="0")
    with page.expect_request("**/v1/chat/completions"):
        ask(page, "Tell me a very long story.")
    page.locator(".message.user .edit").click()
    page.fill(".message textarea", "Count from one to a hundred.")
    page.press(".message textarea", "Enter")
    page.wait_for_function(
        """() => document.querySelector("#stop").offsetParent
            && document.querySelector(".message.assistant .body")?.innerText.length > 3
            && !document.querySelector(".again")"""
    )
    assert finished(page)
    assert page.locator(".message").count() == 2
    assert page.locator(".message.user .body").inner_text() == "Count from one to a hundred."


def test_two_windows_keep_each_others_conversations(page: Any, server: Running) -> None:
    set_up(page, max_tokens="3", temperature="0")
    other = page.context.new_page()
    other.goto(server.url)
    other.wait_for_selector("#model option", state="attached")
    other.click("#new-chat")
    for window, text in ((page, "First window"), (other, "Second window"), (page, "First again")):
        ask(window, text)
        window.wait_for_selector("#send:visible")
        window.wait_for_function("() => document.querySelector('.stats')")
    page.reload()
    titles = page.locator("#conversations .title").all_inner_texts()
    assert sorted(titles) == ["First window", "Second window"]
    assert page.locator(".message").count() in (2, 4)


def test_regenerate_gives_another_answer_in_its_slot(page: Any) -> None:
    set_up(page, max_tokens="10", temperature="1.5")
    ask(page, "Invent a word.")
    first = finished(page)
    with page.expect_request("**/v1/chat/completions"):
        page.click(".again")
    assert finished(page) != first
    assert page.locator(".message").count() == 2


def test_settings_reach_the_request(page: Any) -> None:
    with page.expect_request("**/v1/chat/completions") as sent:
        set_up(page, system="You are terse.", max_tokens="3", temperature="0.5", seed="7", top_p="0.9", stop="END")
        ask(page, "Hello")
    body = sent.value.post_data_json
    assert body["messages"][0] == {"role": "system", "content": "You are terse."}
    wanted = {"max_tokens": 3, "temperature": 0.5, "seed": 7, "top_p": 0.9, "stop": ["END"], "model": "smollm2"}
    assert {name: body[name] for name in wanted} == wanted
    finished(page)


def test_an_adapter_can_be_chosen_for_a_conversation(page: Any) -> None:
    set_up(page, max_tokens="8", temperature="0")
    ask(page, "What is the capital of France?")
    plain = finished(page)
    page.select_option("#model", "smollm2:odd")
    with page.expect_request("**/v1/chat/completions") as sent:
        page.click(".again")
    assert sent.value.post_data_json["model"] == "smollm2:odd"
    page.wait_for_selector("#send:visible")
    assert finished(page) != plain
    page.keyboard.press("Control+Shift+O")
    page.select_option("#model", "smollm2")
    page.locator("#conversations .title").nth(1).click()
    assert page.input_value("#model") == "smollm2:odd"


def test_answers_are_held_to_the_schema_of_the_settings(page: Any) -> None:
    schema = {
        "type": "object",
        "properties": {"city": {"enum": ["Paris", "Rome"]}, "old": {"type": "boolean"}},
        "required": ["city", "old"],
        "additionalProperties": False,
    }
    page.click("#open-settings")
    page.check("[data-setting=use_schema]")
    page.fill("[data-setting=schema]", '{"type": ')
    assert "no JSON" in page.locator("#schema-error").inner_text()
    page.fill("[data-setting=schema]", json.dumps(schema))
    assert page.locator("#schema-error").inner_text() == ""
    page.fill("[data-setting=temperature]", "1.5")
    page.click("#settings button[value=close]")
    ask(page, "Tell me of a city.")
    finished(page)
    answer = json.loads(page.locator(".message.assistant pre").last.inner_text())
    assert answer["city"] in ("Paris", "Rome")
    assert set(answer) == {"city", "old"}


def test_the_keyboard_is_enough(page: Any) -> None:
    """Escape stops, arrow up edits the last message, Escape leaves the edit, Ctrl Shift O begins anew."""
    ask(page, "Tell me a very long story.")
    page.wait_for_selector(".message.assistant .body:not(.waiting)")
    page.keyboard.press("Escape")
    page.wait_for_selector("#send:visible")
    assert page.locator(".stats").last.inner_text() == "stopped"
    page.focus("#composer-text")
    page.keyboard.press("ArrowUp")
    page.wait_for_selector(".message textarea:focus")
    page.keyboard.press("Escape")
    page.wait_for_selector(".message textarea", state="detached")
    page.keyboard.press("Control+Shift+O")
    assert page.locator(".message").count() == 0
    page.wait_for_selector("#composer-text:focus")


def test_text_never_becomes_markup(page: Any) -> None:
    ask_text = '<img src=x onerror="document.title=1"> **bold** [x](javascript:alert(1))'
    rendered = page.evaluate(
        """async (text) => {
            const { renderMarkdown } = await import("/static/markdown.js");
            const box = document.createElement("div");
            renderMarkdown(box, text);
            return box.innerHTML;
        }""",
        ask_text,
    )
    assert "<img" not in rendered
    assert "&lt;img" in rendered
    assert "<strong>bold</strong>" in rendered
    assert "href" not in rendered


@pytest.mark.parametrize(
    ("text", "html"),
    [
        ("# A\n\ntext `x*y` **b *c***", "<h1>A</h1><p>text <code>x*y</code> <strong>b <em>c</em></strong></p>"),
        ("- a\n  - b\n- c", "<ul><li>a<ul><li>b</li></ul></li><li>c</li></ul>"),
        ("3. x\n4. y", '<ol start="3"><li>x</li><li>y</li></ol>'),
        ("> q\n> r", "<blockquote><p>q\nr</p></blockquote>"),
        ("a_b_c 2*3*4", "<p>a_b_c 2*3*4</p>"),
        ("x\n---\ny", "<p>x</p><hr><p>y</p>"),
    ],
)
def test_markdown_is_rendered(page: Any, text: str, html: str) -> None:
    script = """async (text) => {
        const { renderMarkdown } = await import("/static/markdown.js");
        const box = document.createElement("div");
        renderMarkdown(box, text);
        return box.innerHTML;
    }"""
    assert page.evaluate(script, text) == html


def test_a_narrow_window_needs_no_sideways_scrolling(page: Any) -> None:
    page.set_viewport_size({"width": 400, "height": 700})
    page.wait_for_selector("#open-settings", state="hidden")
    set_up(page, max_tokens="5")
    page.keyboard.press("Escape")
    ask(page, "word" * 60)
    finished(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= 400
    page.click("#open-sidebar")
    page.wait_for_selector("#new-chat", state="visible")
    page.keyboard.press("Escape")
    page.wait_for_selector("#new-chat", state="hidden")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_texts_stand_out_from_their_ground(page: Any, scheme: str) -> None:
    """Contrast of at least 4.5 to 1. Source: WCAG 2.1, success criterion 1.4.3."""
    page.emulate_media(color_scheme=scheme)
    ratios = page.evaluate(
        """() => {
        const light = (name) => {
          const probe = document.createElement("i");
          probe.style.color = `var(${name})`;
          document.body.append(probe);
          const [r, g, b] = getComputedStyle(probe).color.match(/[\\d.]+/g).map(Number);
          probe.remove();
          const lin = (c) => { c /= 255; return c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4; };
          return 0.2126 * lin(r) + 0.7152 * lin(g) + 0.0722 * lin(b);
        };
        const ratio = (a, b) => {
          const [x, y] = [light(a), light(b)];
          return (Math.max(x, y) + 0.05) / (Math.min(x, y) + 0.05);
        };
        return [["--ink", "--ground"], ["--faint", "--ground"], ["--faint", "--raised"], ["--faint", "--sunken"],
          ["--on-accent", "--accent"], ["--bad", "--ground"], ["--ink", "--mine"], ["--accent", "--ground"]]
          .map(([a, b]) => [a, b, ratio(a, b)]);
        }"""
    )
    assert [entry for entry in ratios if entry[2] < 4.5] == []


def test_everything_that_can_be_used_has_a_name(page: Any) -> None:
    ask(page, "Hi")
    finished(page)
    unnamed = page.evaluate(
        """() => [...document.querySelectorAll("button, input, textarea, select")].filter((node) =>
            !(node.getAttribute("aria-label") || node.labels?.length || node.textContent.trim())
        ).map((node) => node.outerHTML)"""
    )
    assert unnamed == []


def test_a_wrong_key_is_asked_for_in_the_settings(browser: Any, smollm2_folder: Path) -> None:
    with running_server({"smollm2": smollm2_folder}, api_key="secret") as running:
        context = browser.new_context()
        page = context.new_page()
        page.goto(running.url)
        page.wait_for_selector("#set-key:focus")
        page.fill("#set-key", "secret")
        page.press("#set-key", "Tab")
        page.wait_for_selector("#model option", state="attached")
        context.close()


def test_the_page_is_under_a_strict_policy_and_all_its_files_are_there(server: Running) -> None:
    home = server.get("/", headers={"accept": "text/html"})
    assert "default-src 'none'" in home.headers["content-security-policy"]
    assert "unsafe" not in home.headers["content-security-policy"]
    names = re.findall(r'(?:src|href)="(/[^"]+)"', home.text)
    assert len(names) == 4
    assert {server.get(name).status_code for name in names} == {200}
    assert server.get("/static/..%2Fapp.py").status_code == 404
    assert server.get("/").text == "Ollama is running"
