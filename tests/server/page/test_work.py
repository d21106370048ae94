"""Files, names, search, links, presets, settings and comparing."""

import json
import re
from typing import Any

import pytest

from ...support.page_driver import ONE_WIDTH, Driver

pytestmark = pytest.mark.timeout(120)
DROP = """([selector, kind, files, text]) => {
    const data = new DataTransfer();
    for (const [name, content] of files) data.items.add(new File([content], name));
    if (text) data.setData("text/plain", text);
    const init = { bubbles: true, cancelable: true, dataTransfer: data, clipboardData: data };
    const event = kind === "paste" ? new ClipboardEvent(kind, init) : new DragEvent(kind, init);
    document.querySelector(selector).dispatchEvent(event);
}"""


def pdf(*lines: str) -> bytes:
    """Return a PDF of one page a line of text. Source: ISO 32000-1, 7.5 and 9.4."""
    count = len(lines)
    kids = " ".join(f"{4 + 2 * place} 0 R" for place in range(count))
    objects = [
        "<< /Type /Catalog /Pages 2 0 R >>",
        f"<< /Type /Pages /Kids [{kids}] /Count {count} >>",
        "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]
    for place, line in enumerate(lines):
        text = f"BT /F1 12 Tf 20 100 Td ({line}) Tj ET"
        resources = "/Resources << /Font << /F1 3 0 R >> >>"
        page = f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 300 200] {resources} /Contents {5 + 2 * place} 0 R >>"
        objects += [page, f"<< /Length {len(text)} >>\nstream\n{text}\nendstream"]
    parts, places = ["%PDF-1.4\n"], []
    for number, content in enumerate(objects, 1):
        places.append(sum(map(len, parts)))
        parts.append(f"{number} 0 obj\n{content}\nendobj\n")
    start = sum(map(len, parts))
    table = "".join(f"{place:010} 00000 n \n" for place in places)
    parts.append(f"xref\n0 {len(places) + 1}\n0000000000 65535 f \n{table}")
    parts.append(f"trailer << /Size {len(places) + 1} /Root 1 0 R >>\nstartxref\n{start}\n%%EOF")
    return "".join(parts).encode()


@ONE_WIDTH
def test_the_text_of_a_pdf_goes_along(chat: Driver) -> None:
    file: Any = {"name": "report.pdf", "mimeType": "application/pdf", "buffer": pdf("First page", "Second page")}
    chat.page.set_input_files("#file-field", file)
    chat.page.wait_for_selector("#files .chip")
    with chat.page.expect_request("**/v1/chat/completions") as sent:
        chat.ask("Sum it up")
    content = sent.value.post_data_json["messages"][0]["content"]
    assert content == "File report.pdf:\n```\nFirst page\n\nSecond page\n```\n\nSum it up"


def test_files_are_dropped_pasted_and_chosen_and_go_along_as_text(chat: Driver) -> None:
    chat.page.evaluate(DROP, ["main", "dragover", [["a.csv", ""]], ""])
    assert chat.page.locator("main.dropping").count() == 1
    chat.page.evaluate(DROP, ["main", "drop", [["a.csv", "x,y\n1,2"]], ""])
    chat.page.wait_for_selector("#files .chip")
    chat.page.evaluate(DROP, ["#composer-text", "paste", [["b.md", "```\nfenced\n```"]], ""])
    chat.until("document.querySelectorAll('#files .chip').length === 2")
    chat.page.evaluate(DROP, ["#composer-text", "paste", [], "long " * 1000])
    chat.page.set_input_files("#file-field", {"name": "c.py", "mimeType": "", "buffer": b"print(1)"})
    chat.until("document.querySelectorAll('#files .chip').length === 4")
    chat.page.locator("[aria-label='Leave out pasted text']").click()
    with chat.page.expect_request("**/v1/chat/completions") as sent:
        chat.ask("What is in them?")
    content = sent.value.post_data_json["messages"][0]["content"]
    assert content.startswith(
        "File a.csv:\n```\nx,y\n1,2\n```\n\nFile b.md:\n````\n```\nfenced\n```\n````\n\nFile c.py:"
    )
    assert content.endswith("What is in them?")
    assert chat.page.locator(".file summary").count() == 3
    chat.page.locator(".file summary").first.click()
    assert chat.page.locator(".file pre").first.inner_text() == "x,y\n1,2"
    assert chat.page.locator("#files .chip").count() == 0


@ONE_WIDTH
def test_what_is_no_text_is_refused_by_name(chat: Driver) -> None:
    refused = {
        "a.png": (b"\x89PNG\xff\xfe", "no text in UTF-8"),
        "a.pdf": (b"%PDF-1.4 and no more", "no whole PDF"),
        "empty.pdf": (pdf(""), "pictures and no text"),
        "z": (b"a\0b", "no text"),
        "large.txt": (b"x" * 4_000_001, "at most 4 MB"),
    }
    for name, (data, words) in refused.items():
        chat.page.set_input_files("#file-field", {"name": name, "mimeType": "", "buffer": data})
        chat.until(f"document.querySelector('#toast').textContent.includes({words!r})")
        assert name in chat.page.inner_text("#toast")
        assert chat.page.locator("#files .chip").count() == 0


def test_conversations_are_renamed_pinned_and_dated(chat: Driver) -> None:
    for text in ("Oldest", "Middle", "Newest"):
        chat.ask(text)
        chat.from_sidebar("#new-chat")
    chat.page.evaluate(
        """async () => {
            const db = await new Promise(done => {
                const open = indexedDB.open("llama3-mlx");
                open.onsuccess = () => done(open.result);
            });
            const store = db.transaction("conversations", "readwrite").objectStore("conversations");
            const all = await new Promise(done => {
                store.getAll().onsuccess = ({ target }) => done(target.result);
            });
            const days = { Oldest: 400, Middle: 1, Newest: 0 };
            for (const entry of all) store.put({ ...entry, updated: Date.now() - days[entry.title] * 86400000 });
            await new Promise(done => { store.transaction.oncomplete = done; });
            db.close();
        }"""
    )
    chat.open()
    chat.open_sidebar()
    groups = chat.page.locator("#conversations h2").all_text_contents()
    assert groups[:2] == ["Today", "Yesterday"]
    assert re.fullmatch(r"\w+ \d{4}", groups[2])
    chat.page.locator("button[aria-label='Actions for “Oldest”']").click()
    chat.page.get_by_role("menuitem", name="Pin").click()
    assert chat.titles[0] == "Oldest"
    chat.page.locator("button[aria-label='Actions for “Oldest”']").click()
    chat.page.get_by_role("menuitem", name="Rename").click()
    chat.page.keyboard.type("A better name")
    chat.page.keyboard.press("Enter")
    assert chat.titles[0] == "A better name"
    assert chat.page.evaluate("document.activeElement.textContent") == "A better name"
    chat.open()
    assert chat.titles[0] == "A better name"
    assert chat.page.locator("#conversations h2").first.text_content() == "Pinned"


def test_the_search_finds_words_of_any_conversation_and_goes_to_the_message(chat: Driver) -> None:
    chat.says("animals", "The quick brown fox")
    chat.ask("Tell me of animals")
    chat.says("filler", "nothing")
    for number in range(8):
        chat.ask(f"filler {number}")
    chat.from_sidebar("#new-chat")
    chat.ask("Something else")
    chat.from_sidebar("#search")
    chat.page.fill("#search", "BROWN fox")
    chat.page.wait_for_selector("#conversations button.hit")
    chat.until("document.querySelector('#conversations .group').textContent === '1 place found'")
    assert chat.page.inner_text("#conversations mark") == "brown fox"
    chat.page.click("#conversations button.hit")
    chat.page.wait_for_selector(".message.found")
    assert "quick brown fox" in chat.page.inner_text(".message.found")
    assert chat.page.locator(".message.found").evaluate(
        "node => node.getBoundingClientRect().top >= 0 && node.getBoundingClientRect().bottom <= innerHeight"
    )


def test_every_conversation_has_an_address(chat: Driver) -> None:
    chat.ask("First")
    address = chat.page.evaluate("location.hash")
    chat.from_sidebar("#new-chat")
    chat.ask("Second")
    chat.page.evaluate("hash => { location.hash = hash; }", address)
    chat.until("document.title.startsWith('First')")
    chat.open("/" + address)
    assert chat.shown()[0] == "First"
    chat.open("/#c-unknown")
    chat.until("document.querySelector('#toast').textContent.includes('link')")


def test_settings_are_the_conversations_or_the_defaults_and_the_difference_is_marked(chat: Driver) -> None:
    page = chat.page
    chat.ask("First")
    chat.from_sidebar("#open-settings")
    page.fill("[data-setting=temperature]", "0.5")
    assert page.locator(".differs").evaluate_all("nodes => nodes.map(n => n.dataset.setting)") == ["temperature"]
    assert "1 setting marked" in page.inner_text("#scope-note")
    page.check("#scope-defaults")
    assert page.input_value("[data-setting=temperature]") == ""
    page.fill("[data-setting=top_k]", "20")
    page.check("#scope-this")
    assert page.input_value("[data-setting=top_k]") == ""
    assert "2 settings marked" in page.inner_text("#scope-note")
    page.keyboard.press("Escape")
    chat.from_sidebar("#new-chat")
    chat.from_sidebar("#open-settings")
    assert (page.input_value("[data-setting=top_k]"), page.input_value("[data-setting=temperature]")) == ("20", "")
    page.fill("[data-setting=seed]", "3")
    page.click("#reset-settings")
    assert page.input_value("[data-setting=seed]") == ""
    page.fill("[data-setting=seed]", "4")
    page.click("#make-defaults")
    assert "defaults of new conversations now" in page.inner_text("#scope-note")
    page.check("#scope-defaults")
    assert page.input_value("[data-setting=seed]") == "4"


def test_a_preset_holds_all_settings_and_they_reach_the_request(chat: Driver) -> None:
    page = chat.page
    wanted = {"temperature": 0.5, "top_p": 0.9, "top_k": 7, "min_p": 0.1, "repetition_penalty": 1.2, "seed": 7}
    wanted["max_tokens"] = 30
    chat.from_sidebar("#open-settings")
    for name, value in wanted.items():
        page.fill(f"[data-setting={name}]", str(value))
    page.fill("[data-setting=system]", "You are terse.")
    page.fill("[data-setting=stop]", "END")
    page.fill("#preset-name", "terse")
    page.click("#save-preset")
    page.click("#reset-settings")
    page.keyboard.press("Escape")
    chat.ask("Plain")
    chat.open()
    chat.from_sidebar("#new-chat")
    chat.from_sidebar("#open-settings")
    page.select_option("#preset", "terse")
    page.keyboard.press("Escape")
    with page.expect_request("**/v1/chat/completions") as sent:
        chat.ask("Hello")
    body = sent.value.post_data_json
    assert body["messages"][0] == {"role": "system", "content": "You are terse."}
    assert {name: body[name] for name in wanted} == wanted
    assert (body["stop"], body["model"]) == (["END"], "first")
    chat.from_sidebar("#open-settings")
    page.select_option("#preset", "terse")
    page.click("#delete-preset")
    assert "terse" not in page.inner_text("#preset")


def test_two_models_answer_side_by_side_and_one_is_gone_on_with(chat: Driver) -> None:
    page = chat.page
    page.click("#compare")
    page.select_option("#other", "second")
    asked: list[Any] = []
    page.on("request", lambda sent: asked.append(sent.post_data_json) if "completions" in sent.url else None)
    chat.type("Which is better?")
    chat.until("document.querySelectorAll('.pair .stats').length === 2")
    assert sorted(body["model"] for body in asked) == ["first", "second"]
    boxes = page.locator(".pair .message").evaluate_all("nodes => nodes.map(n => n.getBoundingClientRect().toJSON())")
    assert (boxes[0]["y"] == boxes[1]["y"]) == (page.viewport_size["width"] > 1000)
    page.locator(".pair .message").nth(1).locator("[data-action=keep]").click()
    page.wait_for_selector(".pair", state="detached")
    assert page.locator(".message.assistant h2").inner_text() == "second"
    page.click("#compare")
    chat.ask("Go on")
    assert [message["role"] for message in asked[-1]["messages"]] == ["user", "assistant", "user"]
    assert chat.messages.count() == 4
    assert json.dumps(asked[-1]).count("Which is better?") == 2


@ONE_WIDTH
def test_an_adapter_changes_what_the_real_model_says(chat: Driver) -> None:
    chat.set_up(max_tokens="8", temperature="0")
    chat.page.select_option("#model", "smollm2")
    plain = chat.ask("What is the capital of France?")
    chat.page.select_option("#model", "smollm2:odd")
    chat.act("again")
    chat.page.wait_for_selector(".versions")
    assert chat.finished() != plain
    assert chat.page.inner_text(".message.assistant h2") == "smollm2:odd"
