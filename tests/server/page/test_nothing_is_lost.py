"""Deleting, versions, branches, interruptions: what was written stays."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from ...support.page_driver import Driver

pytestmark = pytest.mark.timeout(120)
BOTH_WIDTHS = pytest.mark.parametrize("chat", [1280, 390], indirect=True)


def menu(chat: Driver, item: str, place: int = 0) -> None:
    """Choose from a conversation's menu."""
    if chat.page.is_visible("#open-sidebar") and not chat.page.is_visible("#sidebar.open"):
        chat.page.click("#open-sidebar")
    chat.page.locator("#conversations .more").nth(place).click()
    chat.page.get_by_role("menuitem", name=item).click()


@BOTH_WIDTHS
def test_a_deleted_conversation_can_be_brought_back(chat: Driver) -> None:
    chat.ask("Keep this")
    menu(chat, "Delete")
    chat.until("document.querySelector('#toast').textContent.includes('is deleted')")
    assert chat.titles in ([], ["New conversation"])
    chat.close_sidebar()
    chat.page.click("#toast [data-action=undo]")
    chat.page.wait_for_selector(".message.assistant")
    chat.open()
    assert chat.shown() == ["Keep this", "You said: Keep this"]


def test_all_are_deleted_only_after_a_yes_and_come_back_too(chat: Driver) -> None:
    chat.ask("One")
    chat.page.click("#new-chat")
    chat.ask("Two")
    for answer in ("Cancel", "Delete all"):
        chat.page.click("#open-settings")
        chat.page.click("#delete-all")
        chat.page.click(f"#confirm button:text-is('{answer}')")
        if answer == "Cancel":
            assert len(chat.titles) == 2
            chat.page.keyboard.press("Escape")
    chat.page.wait_for_selector("#toast [data-action=undo]")
    assert chat.titles == ["New conversation"]
    chat.page.click("#toast [data-action=undo]")
    chat.page.wait_for_selector(".message")
    assert {"One", "Two"} <= set(chat.titles)


def test_answers_go_on_in_several_conversations_while_another_is_looked_at(chat: Driver) -> None:
    first = chat.says("Question A", "A begins and A ends", hold=8)
    second = chat.says("Question B", "B begins and B ends", hold=8)
    chat.type("Question A")
    chat.until("document.querySelector('.message.assistant .body')?.innerText.includes('A begins')")
    chat.page.click("#new-chat")
    chat.type("Question B")
    chat.until("document.querySelector('.message.assistant .body')?.innerText.includes('B begins')")
    assert chat.page.locator("#conversations .writes").count() == 2
    first.go.set()
    chat.until("document.querySelectorAll('#conversations .writes').length === 1")
    second.go.set()
    assert chat.finished() == "B begins and B ends"
    chat.page.locator("#conversations .title", has_text="Question A").click()
    chat.until_last("A begins and A ends")


def test_an_answer_that_was_stopped_before_its_first_word_can_be_tried_again(chat: Driver) -> None:
    says = chat.says("Slow", "At last", hold=0)
    chat.type("Slow")
    chat.page.click("#stop")
    chat.page.wait_for_selector("#messages [data-action=again]")
    assert "Nothing was written" in chat.page.locator(".message.assistant").inner_text()
    says.hold = None
    chat.act("again")
    chat.until_last("At last")
    assert chat.messages.count() == 2


@BOTH_WIDTHS
def test_every_version_of_an_answer_can_be_gone_back_to(chat: Driver) -> None:
    chat.says("Q", "one")
    chat.ask("Q")
    for text in ("two", "three"):
        chat.says("Q", text)
        chat.act("again")
        chat.until_last(text)
        chat.finished()
    assert chat.page.locator(".versions").inner_text() == "‹\n3/3\n›"
    chat.act("earlier-version")
    assert chat.shown()[-1] == "two"
    assert chat.page.evaluate("document.activeElement.dataset.action") == "earlier-version"
    chat.open()
    assert chat.shown()[-1] == "two"
    chat.act("earlier-version")
    assert chat.shown()[-1] == "one"


def test_an_edited_message_begins_a_branch_and_the_other_stays(chat: Driver) -> None:
    chat.ask("First question")
    chat.ask("Second question")
    chat.act("edit", 0)
    chat.page.fill(".message textarea", "Other question")
    chat.page.press(".message textarea", "Enter")
    chat.until("document.querySelectorAll('.message').length === 2")
    chat.finished()
    assert chat.shown() == ["Other question", "You said: Other question"]
    chat.page.locator(".message.user [data-action=earlier-version]").click()
    assert chat.shown()[0] == "First question"
    assert chat.shown()[-1] == "You said: Second question"


def test_continue_writes_on_where_the_limit_cut_the_answer(chat: Driver) -> None:
    chat.says("Count", "one two three four")
    chat.set_up(max_tokens="7")
    assert chat.ask("Count") == "one two"
    assert "cut at the token limit" in chat.page.locator(".stats").inner_text()
    chat.says("one two", " three")
    with chat.page.expect_request("**/v1/chat/completions") as sent:
        chat.act("go-on")
    body = sent.value.post_data_json
    assert body["messages"][-1] == {"role": "assistant", "content": "one two"}
    assert body["continue_final_message"] is True
    assert body["add_generation_prompt"] is False
    chat.until_last("one two three")
    assert chat.messages.count() == 2


@pytest.mark.parametrize("way", ["close", "reload"])
def test_whatever_was_shown_is_there_after_the_page_went_away(chat: Driver, way: str) -> None:
    chat.says("Long", "shown so far and never shown", hold=12)
    chat.type("Long")
    chat.until_last("shown so far")
    old, context = chat.page, chat.page.context
    chat.page = context.new_page() if way != "reload" else old
    if way == "close":
        old.close()
    chat.watch(chat.page)
    chat.open()
    assert chat.shown() == ["Long", "shown so far"]
    assert "broken off" in chat.page.locator(".stats").inner_text()
    assert chat.page.locator("#messages [data-action=go-on]").count() == 1


def test_a_draft_outlives_a_reload_and_belongs_to_its_conversation(chat: Driver) -> None:
    chat.ask("Hello")
    chat.page.fill("#composer-text", "half a thou")
    chat.page.click("#new-chat")
    assert chat.page.input_value("#composer-text") == ""
    chat.page.locator("#conversations .title", has_text="Hello").click()
    chat.open()
    assert chat.page.input_value("#composer-text") == "half a thou"


def test_everything_goes_into_a_file_and_comes_back_from_it(chat: Driver, browser: Any, tmp_path: Path) -> None:
    chat.set_up(system="Be brief.", top_k="5")
    chat.ask("Take me along")
    chat.act("again")
    chat.finished()
    chat.page.click("#open-settings")
    chat.page.fill("#preset-name", "brief")
    chat.page.click("#save-preset")
    with chat.page.expect_download() as got:
        chat.page.click("#export")
    saved = tmp_path / "saved.json"
    got.value.save_as(saved)
    assert json.loads(saved.read_text())["version"] == 2
    context = browser.new_context()
    other = Driver(context.new_page(), chat.server)
    other.open()
    for words in ("1 conversation taken", "0 conversations taken from the file; 1 were here already"):
        other.page.click("#open-settings")
        other.page.set_input_files("#import-file", saved)
        other.until(f"document.querySelector('#transfer-note').textContent.includes({words!r})")
        other.page.keyboard.press("Escape")
    other.page.locator("#conversations .title", has_text="Take me along").click()
    other.page.wait_for_selector(".message.assistant")
    assert other.shown() == ["Take me along", "You said: Take me along"]
    assert other.page.locator(".versions").inner_text() == "‹\n2/2\n›"
    other.page.click("#open-settings")
    assert other.page.input_value("[data-setting=system]") == "Be brief."
    assert "brief" in other.page.locator("#preset option").all_inner_texts()
    for text, words in (("no json", "no JSON"), ('{"format": "x"}', "holds no conversations")):
        other.page.set_input_files("#import-file", {"name": "x.json", "mimeType": "", "buffer": text.encode()})
        other.until(f"document.querySelector('#transfer-note').textContent.includes({words!r})")
    context.close()
    assert other.complaints == []


def test_what_earlier_versions_kept_is_taken_over(chat: Driver) -> None:
    """The earlier form, as that version wrote it: lists of messages in localStorage."""
    old = [
        {
            "id": "old-1",
            "title": "From before",
            "settings": {"model": "second", "system": "Old prompt", "temperature": "0.5"},
            "messages": [
                {"role": "user", "content": "Old question"},
                {
                    "role": "assistant",
                    "content": "Old answer",
                    "stats": {"tokens": 2, "prompt": 5, "rate": 3, "first": 1},
                },
            ],
        }
    ]
    chat.page.evaluate(
        """old => {
            localStorage.setItem("llama3-mlx.conversations", JSON.stringify(old));
            localStorage.setItem("llama3-mlx.settings", '{"seed": "7"}');
            localStorage.setItem("llama3-mlx.key", '""');
        }""",
        old,
    )
    chat.open()
    chat.page.locator("#conversations .title", has_text="From before").click()
    chat.page.wait_for_selector(".message.assistant")
    assert chat.shown() == ["Old question", "Old answer"]
    assert chat.page.input_value("#model") == "second"
    assert chat.page.evaluate("localStorage.getItem('llama3-mlx.conversations')") is None
    chat.page.click("#new-chat")
    chat.page.click("#open-settings")
    assert chat.page.input_value("[data-setting=seed]") == "7"


def test_two_windows_show_the_same(chat: Driver) -> None:
    chat.ask("From the first")
    other = Driver(chat.page.context.new_page(), chat.server)
    other.open()
    assert other.shown() == ["From the first", "You said: From the first"]
    other.ask("From the second")
    chat.until("document.querySelectorAll('.message').length === 4")
    other.page.click("#new-chat")
    other.ask("Another")
    chat.until("document.querySelectorAll('#conversations .title').length === 2")
    chat.page.locator("#conversations .title", has_text="Another").click()
    chat.says("Slow", "as far as here and no further", hold=14)
    other.type("Slow")
    chat.until_last("as far as here")
    assert chat.page.locator(".stats", has_text="broken off").count() == 0
    other.page.close()
    chat.page.locator(".stats", has_text="broken off").wait_for()
    assert other.complaints == []


def test_a_full_browser_is_told_and_nothing_is_dropped(chat: Driver) -> None:
    chat.ask("Kept")
    chat.page.evaluate(
        "() => { IDBObjectStore.prototype.put = () => { throw new DOMException('no room', 'QuotaExceededError'); }; }"
    )
    chat.ask("Not kept")
    assert re.search("no room left.*Save everything", chat.page.inner_text("#toast"))
    assert chat.shown()[-1] == "You said: Not kept"
    chat.open()
    assert chat.shown()[:2] == ["Kept", "You said: Kept"]
