"""Deleting, versions, branches, interruptions: what was written stays."""

import pytest

from ...support.page_driver import Driver

pytestmark = pytest.mark.timeout(120)


def test_a_deleted_conversation_can_be_brought_back(chat: Driver) -> None:
    chat.ask("Keep this")
    chat.choose("Delete")
    chat.until("document.querySelector('#toast').textContent.includes('is deleted')")
    assert chat.titles == ["New conversation"]
    chat.page.click("#toast [data-action=undo]")
    chat.page.wait_for_selector(".message.assistant")
    chat.open()
    assert chat.shown() == ["Keep this", "You said: Keep this"]


def test_a_notice_can_be_answered_while_the_sidebar_lies_over_the_messages(chat: Driver) -> None:
    chat.ask("First")
    chat.from_sidebar("#new-chat")
    chat.ask("Second")
    chat.choose("Delete")
    chat.until("document.title.startsWith('First')")
    assert chat.page.is_visible("#sidebar.open") == chat.page.is_visible("#shade")
    chat.page.click("#toast [data-action=undo]")
    chat.until("document.title.startsWith('Second')")
    assert chat.titles == ["Second", "First"]
    assert chat.page.evaluate("document.activeElement.id") in ("composer-text", "new-chat")
    chat.choose("Delete")
    chat.page.click("#toast [data-action=close-notice]")
    assert chat.page.is_hidden("#toast")
    assert chat.page.evaluate("document.activeElement.id") in ("composer-text", "new-chat")
    assert chat.titles == ["First"]


def test_a_conversation_without_a_message_is_listed_only_while_it_is_looked_at(chat: Driver) -> None:
    """What was written in its field, and its settings, are there again with the next new one."""
    page = chat.page
    chat.ask("First")
    chat.from_sidebar("#new-chat")
    assert chat.titles == ["New conversation", "First"]
    chat.from_sidebar("#new-chat")
    assert chat.titles == ["New conversation", "First"]
    page.fill("#composer-text", "half a thou")
    chat.set_up(system="Be brief.")
    chat.go_to("First")
    chat.until("document.querySelectorAll('.message').length === 2")
    assert chat.titles == ["First"]
    assert page.input_value("#composer-text") == ""
    chat.from_sidebar("#new-chat")
    assert chat.titles == ["New conversation", "First"]
    assert page.input_value("#composer-text") == "half a thou"
    page.go_back()
    chat.until("document.querySelectorAll('.message').length === 2")
    assert chat.titles == ["First"]
    page.go_forward()
    chat.until("document.querySelector('#composer-text').value === 'half a thou'")
    with page.expect_request("**/v1/chat/completions") as sent:
        page.press("#composer-text", "Enter")
    assert sent.value.post_data_json["messages"][0] == {"role": "system", "content": "Be brief."}
    chat.until_last("You said: half a thou")
    chat.from_sidebar("#new-chat")
    assert page.input_value("#composer-text") == ""
    chat.from_sidebar("#open-settings")
    assert page.input_value("[data-setting=system]") == ""
    chat.leave()
    chat.open()
    assert chat.titles == ["New conversation", "half a thou", "First"]
    chat.go_to("First")
    chat.until("document.querySelectorAll('.message').length === 2")
    chat.open()
    assert chat.titles == ["half a thou", "First"]


def test_all_are_deleted_only_after_a_yes_and_come_back_too(chat: Driver) -> None:
    chat.ask("One")
    chat.from_sidebar("#new-chat")
    chat.ask("Two")
    for answer in ("Cancel", "Delete all"):
        chat.from_sidebar("#open-settings")
        chat.page.click("#delete-all")
        chat.page.click(f"#confirm button:text-is('{answer}')")
        if answer == "Cancel":
            assert len(chat.titles) == 2
            chat.leave()
    chat.page.wait_for_selector("#toast [data-action=undo]")
    assert chat.titles == ["New conversation"]
    chat.page.click("#toast [data-action=undo]")
    chat.page.wait_for_selector(".message")
    assert {"One", "Two"} <= set(chat.titles)


def test_answers_go_on_in_several_conversations_while_another_is_looked_at(chat: Driver) -> None:
    first = chat.says("Question A", "A begins and A ends", hold=8)
    second = chat.says("Question B", "B begins and B ends", hold=8)
    chat.type("Question A" + " with a long title" * 4)
    chat.until("document.querySelector('.message.assistant .body')?.innerText.includes('A begins')")
    chat.from_sidebar("#new-chat")
    chat.type("Question B")
    chat.until("document.querySelector('.message.assistant .body')?.innerText.includes('B begins')")
    chat.open_sidebar()
    signs = chat.page.locator("#conversations .writes")
    signs.nth(1).wait_for()
    ends = signs.evaluate_all("nodes => nodes.map(node => node.getBoundingClientRect().right)")
    assert max(ends) < chat.page.locator("#sidebar").evaluate("node => node.getBoundingClientRect().right")
    first.go.set()
    chat.until("document.querySelectorAll('#conversations .writes').length === 1")
    second.go.set()
    assert chat.finished() == "B begins and B ends"
    chat.go_to("Question A")
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
    if way == "close":
        old, chat.page = chat.page, chat.page.context.new_page()
        chat.page.set_viewport_size(old.viewport_size)
        old.close()
        chat.watch(chat.page)
    chat.open()
    assert chat.shown() == ["Long", "shown so far"]
    assert "broken off" in chat.page.locator(".stats").inner_text()
    assert chat.page.locator("#messages [data-action=go-on]").count() == 1
