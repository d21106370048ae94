"""Everything into a file and back: from this version, from earlier ones, from what is no such file."""

import json
from pathlib import Path
from typing import Any

import pytest

from ...support.page_driver import ONE_WIDTH, Driver

pytestmark = pytest.mark.timeout(120)
READ = """async ([module, texts]) => {
    const { readExport } = await import(module);
    return texts.map((text) => {
        try {
            return readExport(text) && "";
        } catch (error) {
            return error.message;
        }
    });
}"""
CONVERSATION: dict[str, Any] = {
    "id": "c",
    "title": "From a file",
    "updated": 1,
    "settings": {"temperature": 0.5, "x": 1},
}
MESSAGE: dict[str, Any] = {"id": "m", "conversation": "c", "parent": "", "role": "assistant", "content": "Its answer"}
UNREADABLE: list[dict[str, Any]] = [
    {"role": "system"},
    {"content": None},
    {"parent": 3},
    {"conversation": "another"},
    {"files": "a.txt"},
    {"files": [{"name": "a.txt"}]},
    {"calls": [{"id": "1", "name": "f"}]},
    {"stats": {"tokens": 1}},
    {"notes": "x"},
    {"judged": {"model": "g", "flagged": True}},
]

OLDER = [
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


def file_of(*messages: dict[str, Any], **more: Any) -> str:
    """Return the text of a file with one conversation."""
    content = {"conversations": [CONVERSATION], "messages": messages}
    return json.dumps({"format": "llama3-mlx conversations", "version": 2, **content, **more})


def take(chat: Driver, text: str, words: str) -> None:
    """Take from a file in the settings and wait for what is said of it."""
    chat.from_sidebar("#open-settings")
    chat.page.set_input_files("#import-file", {"name": "x.json", "mimeType": "", "buffer": text.encode()})
    chat.until(f"document.querySelector('#transfer-note').textContent.includes({words!r})")
    chat.leave()


def test_everything_goes_into_a_file_and_comes_back_from_it(chat: Driver, browser: Any, tmp_path: Path) -> None:
    chat.set_up(system="Be brief.", top_k="5")
    chat.ask("Take me along")
    chat.act("again")
    chat.finished()
    chat.from_sidebar("#open-settings")
    chat.page.fill("#preset-name", "brief")
    chat.page.click("#save-preset")
    with chat.page.expect_download() as got:
        chat.page.click("#export")
    saved = tmp_path / "saved.json"
    got.value.save_as(saved)
    assert json.loads(saved.read_text())["version"] == 2
    context = browser.new_context(viewport=chat.page.viewport_size)
    other = Driver(context.new_page(), chat.server)
    other.open()
    for words in ("1 conversation taken", "0 conversations taken from the file; 1 was here already and stayed"):
        other.from_sidebar("#open-settings")
        other.page.set_input_files("#import-file", saved)
        other.until(f"document.querySelector('#transfer-note').textContent.includes({words!r})")
        other.leave()
    other.go_to("Take me along")
    other.page.wait_for_selector(".message.assistant")
    assert other.shown() == ["Take me along", "You said: Take me along"]
    assert other.page.locator(".versions").inner_text() == "‹\n2/2\n›"
    other.from_sidebar("#open-settings")
    assert other.page.input_value("[data-setting=system]") == "Be brief."
    assert "brief" in other.page.locator("#preset option").all_inner_texts()
    for text, words in (("no json", "no JSON"), ('{"format": "x"}', "holds no conversations")):
        other.page.set_input_files("#import-file", {"name": "x.json", "mimeType": "", "buffer": text.encode()})
        other.until(f"document.querySelector('#transfer-note').textContent.includes({words!r})")
    context.close()
    assert other.complaints == []


def test_what_earlier_versions_kept_is_taken_over(chat: Driver) -> None:
    """The earlier form, as that version wrote it: lists of messages in localStorage."""
    chat.page.evaluate(
        """old => {
            localStorage.setItem("llama3-mlx.conversations", JSON.stringify(old));
            localStorage.setItem("llama3-mlx.settings", '{"seed": "7"}');
            localStorage.setItem("llama3-mlx.key", '""');
        }""",
        OLDER,
    )
    chat.open()
    chat.go_to("From before")
    chat.page.wait_for_selector(".message.assistant")
    assert chat.shown() == ["Old question", "Old answer"]
    assert chat.page.input_value("#model") == "second"
    assert chat.page.evaluate("localStorage.getItem('llama3-mlx.conversations')") is None
    chat.from_sidebar("#new-chat")
    chat.from_sidebar("#open-settings")
    assert chat.page.input_value("[data-setting=seed]") == "7"


def test_a_file_of_an_earlier_version_is_taken_once(chat: Driver) -> None:
    take(chat, json.dumps([*OLDER, None, {"messages": [None]}]), "1 conversation taken from the file.")
    take(chat, json.dumps(OLDER), "0 conversations taken from the file; 1 was here already and stayed.")
    chat.go_to("From before")
    chat.page.wait_for_selector(".message.assistant")
    assert chat.shown() == ["Old question", "Old answer"]
    assert chat.page.locator(".versions").count() == 0


def test_a_newer_state_of_a_conversation_joins_the_older_one_in_all_windows(chat: Driver) -> None:
    answers = [{**MESSAGE, "id": f"m{number}", "number": number, "content": f"Answer {number}"} for number in range(2)]
    other = chat.second_window()
    take(chat, file_of(answers[0]), "1 conversation taken")
    for window in (chat, other):
        window.go_to("From a file")
        window.until_last("Answer 0")
    take(chat, file_of(*answers, conversations=[{**CONVERSATION, "updated": 2}]), "1 conversation taken")
    for window in (chat, other):
        window.page.locator(".versions", has_text="/2").wait_for()
    chat.from_sidebar("#open-settings")
    assert chat.page.input_value("[data-setting=temperature]") == "0.5"


@ONE_WIDTH
def test_what_cannot_be_read_is_told_and_nothing_is_taken(chat: Driver) -> None:
    whole = {"conversations": [{**CONVERSATION, "settings": None}]}
    files = {
        "no json": "is no JSON",
        '{"format": "x"}': "holds no conversations",
        '{"format": "llama3-mlx conversations"}': "holds no conversations",
        file_of(version=3): "newer version",
        file_of(**whole): "1 entries",
        file_of(presets=[{"name": 1}]): "1 entries",
        **{file_of(MESSAGE, {**MESSAGE, **wrong}): "1 entries" for wrong in UNREADABLE},
    }
    said = chat.page.evaluate(READ, [chat.module("storage/transfer.js"), [*files, file_of(MESSAGE)]])
    assert [
        words for words, wanted in zip(said, [*files.values(), ""], strict=True) if wanted not in (words or "")
    ] == []
    assert said[-1] == ""
    take(chat, next(iter(files)), "is no JSON")
    assert chat.titles == ["New conversation"]


def test_a_file_with_impossible_dates_and_broken_ways_can_be_read_searched_and_opened(chat: Driver) -> None:
    """Messages in a circle and messages that follow none: each begins a way of its own."""
    ways = {"circle": "circle", "one": "other", "other": "one", "lost": "nowhere", "sound": ""}
    messages = [
        {**MESSAGE, "id": name, "parent": parent, "content": f"The {name} one", "created": 1e300, "state": "writing"}
        for name, parent in ways.items()
    ]
    dated = {**CONVERSATION, "created": "x", "updated": 1e300, "chosen": {"": "lost"}, "pinned": "yes"}
    take(chat, file_of(*messages, conversations=[dated]), "1 conversation taken")
    for name in ways:
        chat.from_sidebar("#search")
        chat.page.fill("#search", f"The {name} one")
        chat.page.locator("button.hit", has_text=f"The {name} one").click()
        chat.page.locator(".message.found", has_text=f"The {name} one").wait_for()
        assert "broken off" in chat.page.locator(".message.found").inner_text()
    chat.open()
    assert chat.shown()[-1] in {f"The {name} one" for name in ways}
