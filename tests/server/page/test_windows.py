"""Several windows of one browser over the same conversations, and the way back from one conversation to another."""

import json
import time

import pytest

from ...support.page_driver import ONE_WIDTH, Driver

pytestmark = pytest.mark.timeout(120)
# What a window tells the others is held back, as when both do something at the same moment.
HOLD_BACK = """() => {
    const { postMessage } = BroadcastChannel.prototype, held = [];
    BroadcastChannel.prototype.postMessage = function (data) {
        const copy = structuredClone(data);
        held.push(() => postMessage.call(this, copy));
    };
    window.letGo = () => {
        BroadcastChannel.prototype.postMessage = postMessage;
        held.forEach((tell) => tell());
    };
}"""


def goes_to(chat: Driver, title: str) -> None:
    """Wait until a conversation is shown."""
    chat.until(f"document.title.startsWith({json.dumps(title)})")


def test_two_windows_show_the_same(chat: Driver) -> None:
    chat.ask("From the first")
    other = chat.second_window()
    assert other.shown() == ["From the first", "You said: From the first"]
    other.ask("From the second")
    chat.until("document.querySelectorAll('.message').length === 4")
    other.from_sidebar("#new-chat")
    other.ask("Another")
    chat.until("document.querySelectorAll('#conversations .title').length === 2")
    chat.go_to("Another")
    chat.says("Slow", "as far as here and no further", hold=14)
    other.type("Slow")
    chat.until_last("as far as here")
    assert chat.page.locator(".stats", has_text="broken off").count() == 0
    assert chat.page.locator(".stage").inner_text() == "Written in another window"
    chat.says("Now me", "Yes")
    chat.type("Now me")
    chat.until("document.querySelector('#toast').textContent.includes('answered in another window')")
    assert chat.page.input_value("#composer-text") == "Now me"
    other.page.close()
    chat.page.locator(".stats", has_text="broken off").wait_for()
    chat.page.press("#composer-text", "Enter")
    chat.until_last("Yes")


def test_two_windows_that_ask_at_once_keep_both_questions_and_their_own_in_view(chat: Driver) -> None:
    chat.ask("Start")
    other = chat.second_window()
    mine = chat.says("Mine", "my answer", hold=2)
    theirs = chat.says("Theirs", "their answer", hold=2)
    chat.page.evaluate(HOLD_BACK)
    chat.type("Mine")
    chat.until_last("my")
    other.type("Theirs")
    other.until_last("th")
    chat.page.evaluate("window.letGo()")
    for says in (mine, theirs):
        says.go.set()
    chat.until_last("my answer")
    other.until_last("their answer")
    chat.finished()
    chat.open()
    seen = {tuple(chat.shown()[2:])}
    for action in ("earlier-version", "later-version"):
        button = chat.page.locator(f".message.user [data-action={action}]:enabled")
        if button.count():
            button.click()
            seen.add(tuple(chat.shown()[2:]))
    assert seen == {("Mine", "my answer"), ("Theirs", "their answer")}


def test_what_one_window_deletes_is_written_on_in_no_other_and_can_be_brought_back(chat: Driver) -> None:
    other = chat.second_window()
    chat.says("Slow", "as far as here and no further", hold=14)
    other.type("Slow")
    other.until_last("as far as here")
    chat.until("document.querySelector('#conversations .title')?.textContent.includes('Slow')")
    # The database gets what was written within 700 ms.
    time.sleep(1.5)
    chat.choose("Delete")
    other.until("document.querySelector('#toast').textContent.includes('deleted in another window')")
    assert other.messages.count() == 0
    deadline = time.monotonic() + 30
    while any(model["running"] for model in chat.server.running.get("/status").json()["models"]):
        assert time.monotonic() < deadline, "the other window's answer goes on"
        time.sleep(0.02)
    chat.page.click("#toast [data-action=undo]")
    chat.until_last("as far as here")
    assert "broken off" in chat.page.locator(".stats").inner_text()
    assert chat.page.locator("#messages [data-action=go-on]").count() == 1
    other.go_to("Slow")
    other.until_last("as far as here")


def test_deleting_in_the_middle_of_an_answer_loses_nothing_of_it(chat: Driver) -> None:
    chat.says("Slow", "as far as here and no further", hold=14)
    chat.type("Slow")
    chat.until_last("as far as here")
    chat.choose("Delete")
    chat.page.click("#toast [data-action=undo]")
    chat.until_last("as far as here")
    assert "stopped" in chat.page.locator(".stats").inner_text()
    assert chat.page.locator("#messages [data-action=go-on]").count() == 1


def test_an_answer_whose_window_crashed_is_marked_when_it_is_opened(chat: Driver) -> None:
    """As the database has it when nothing else was kept of it."""
    chat.ask("Question")
    chat.page.evaluate(
        """() => new Promise((done) => {
            indexedDB.open("llama3-mlx").onsuccess = ({ target: { result: db } }) => {
                const store = db.transaction("messages", "readwrite").objectStore("messages");
                store.getAll().onsuccess = ({ target: { result } }) => {
                    const answer = result.find(({ role }) => role === "assistant");
                    store.put({ ...answer, state: "writing", stats: undefined });
                };
                store.transaction.oncomplete = () => { db.close(); done(); };
            };
        })"""
    )
    chat.open()
    chat.page.locator(".stats", has_text="broken off").wait_for()
    chat.act("go-on")
    chat.finished()


def test_back_and_forward_go_from_conversation_to_conversation(chat: Driver) -> None:
    page = chat.page
    chat.ask("First")
    chat.from_sidebar("#new-chat")
    chat.ask("Second")
    chat.go_to("First")
    goes_to(chat, "First")
    page.go_back()
    goes_to(chat, "Second")
    page.go_back()
    goes_to(chat, "First")
    assert chat.shown() == ["First", "You said: First"]
    page.go_forward()
    goes_to(chat, "Second")
    chat.from_sidebar("#new-chat")
    page.go_back()
    goes_to(chat, "Second")
    chat.choose("Delete", chat.titles.index("Second"))
    goes_to(chat, "First")
    page.go_forward()
    chat.until("document.querySelectorAll('.message').length === 0")
    page.go_back()
    goes_to(chat, "First")


def test_a_draft_outlives_a_reload_and_belongs_to_its_conversation(chat: Driver) -> None:
    chat.ask("Hello")
    chat.page.fill("#composer-text", "half a thou")
    chat.from_sidebar("#new-chat")
    assert chat.page.input_value("#composer-text") == ""
    chat.page.fill("#composer-text", "not begun")
    chat.page.set_input_files("#file-field", {"name": "a.txt", "mimeType": "", "buffer": b"with a file"})
    chat.page.wait_for_selector("#files .chip")
    chat.open()
    assert chat.page.input_value("#composer-text") == "not begun"
    assert chat.page.locator("#files .chip").count() == 1
    chat.go_to("Hello")
    goes_to(chat, "Hello")
    chat.open()
    assert chat.page.input_value("#composer-text") == "half a thou"
    assert chat.page.locator("#files .chip").count() == 0


@ONE_WIDTH
def test_files_of_more_than_the_browser_has_room_for_stay_as_long_as_the_page(chat: Driver) -> None:
    chat.ask("Hello")
    for name in ("b.txt", "c.txt"):
        chat.page.set_input_files("#file-field", {"name": name, "mimeType": "", "buffer": b"x" * 3_900_000})
        chat.page.locator("#files .chip", has_text=name).wait_for()
    assert "no room for files" in chat.page.inner_text("#toast")
    chat.from_sidebar("#new-chat")
    chat.go_to("Hello")
    chat.until("document.querySelectorAll('#files .chip').length === 2")
