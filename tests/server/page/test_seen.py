"""What is seen of an answer: what happens before its first word, its rate, who wrote it, calls, JSON, verdicts."""

import json
import re
import threading
import time

import pytest

from ...support.page_driver import ONE_WIDTH, Driver

pytestmark = pytest.mark.timeout(120)


def stage(chat: Driver, words: str) -> None:
    chat.until(f"document.querySelector('.stage')?.textContent.includes({json.dumps(words)})")


def test_loading_queue_prompt_and_writing_are_told_apart(chat: Driver) -> None:
    """The model's loading is held, its queue is filled by another client, its prompt is reported in steps."""
    chat.server.running.post("/api/generate", {"model": "second", "keep_alive": 0})
    held = chat.server.loader.hold = threading.Event()
    says = chat.says("Wait for it", "word " * 40, hold=0)
    chat.page.select_option("#model", "second")
    chat.type("Wait for it")
    stage(chat, "Loading the model")
    held.set()
    chat.server.loader.hold = None
    stage(chat, "Reading the prompt")
    chat.page.click("#stop")
    chat.page.wait_for_selector("#send:visible")
    says.progress = ((256, 1000), (512, 1000))
    chat.act("again")
    stage(chat, "512 of 1,000 tokens")
    chat.page.click("#stop")
    chat.page.wait_for_selector("#send:visible")
    says.progress = ()
    running = chat.server.running.app.state.server.models.slots["second"].loaded.runtime
    running.active += running.max_running
    chat.act("again")
    stage(chat, "Waiting in the queue, 1 request")
    running.active -= running.max_running
    says.hold, says.every_s = 40, 0.01
    chat.page.click("#stop")
    chat.page.wait_for_selector("#send:visible")
    chat.act("again")
    stage(chat, "Writing, about")
    assert re.search(r"about [\d.]+ tokens/s", chat.page.inner_text(".stage"))
    says.go.set()
    chat.finished()
    assert re.search(r"\d+ tokens · [\d.]+ tokens/s · first after", chat.page.inner_text(".stats"))


def test_each_answer_says_which_model_and_adapter_wrote_it(chat: Driver) -> None:
    chat.ask("One")
    chat.page.select_option("#model", "second")
    chat.ask("Two")
    assert chat.page.locator(".message.assistant h2").all_inner_texts() == ["first", "second"]


def test_the_fill_of_the_context_is_shown_and_what_to_do_when_it_is_nearly_full(chat: Driver) -> None:
    chat.page.select_option("#model", "second")
    chat.says("Short", "word " * 20)
    chat.ask("Short")
    assert re.search(r"\d+ of 2,048 tokens of context", chat.page.inner_text("#context"))
    assert 0.05 < chat.page.evaluate("document.querySelector('#context-meter').value") < 0.4
    assert chat.page.is_hidden("#context-advice")
    chat.says("Long", "word " * 340)
    chat.ask("Long")
    assert "nearly full" in chat.page.inner_text("#context-advice")
    chat.page.click("[data-action=go-on-new]")
    chat.until("document.querySelector('#conversations .current .title').textContent.includes('(continued)')")
    assert chat.shown()[0] == "Long"
    assert chat.messages.count() == 2
    chat.page.select_option("#model", "smollm2")
    chat.type("word " * 9000)
    chat.page.wait_for_selector(".message .error")
    chat.complaints[:] = [said for said in chat.complaints if "400" not in said]
    assert "context" in chat.page.locator(".message .error").inner_text()
    assert "is full" in chat.page.inner_text("#context-advice")


def test_a_tool_call_is_shown_as_one_and_takes_its_result(chat: Driver) -> None:
    tools = [{"name": "weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}]
    chat.from_sidebar("#open-settings")
    chat.page.check("[data-setting=use_tools]")
    chat.page.fill("[data-setting=tools]", "[1")
    assert "no list of tools" in chat.page.inner_text("#tools-error")
    chat.page.fill("[data-setting=tools]", json.dumps(tools))
    chat.leave()
    chat.says("What is the weather", '{"name": "weather", "parameters": {"city": "Oslo"}}')
    chat.type("What is the weather in Oslo?")
    card = chat.page.locator(".call")
    card.wait_for()
    chat.finished()
    assert card.locator("code").first.inner_text() == "weather"
    assert json.loads(card.locator("pre").inner_text()) == {"city": "Oslo"}
    assert chat.page.locator(".stats").inner_text()
    chat.says("7 degrees", "It is 7 degrees.")
    card.locator("textarea").fill("7 degrees")
    with chat.page.expect_request("**/v1/chat/completions") as sent:
        chat.act("give-results")
    called, result = sent.value.post_data_json["messages"][-2:]
    assert called["tool_calls"][0]["function"] == {"name": "weather", "arguments": '{"city": "Oslo"}'}
    assert result == {"role": "tool", "tool_call_id": called["tool_calls"][0]["id"], "content": "7 degrees"}
    chat.until_last("It is 7 degrees.")
    assert chat.page.locator(".message.tool h2").inner_text() == "Tool result"


def test_an_answer_that_follows_a_schema_is_shown_as_json(chat: Driver) -> None:
    """By the real model, whose answer the grammar holds to the schema."""
    schema = {
        "type": "object",
        "properties": {"city": {"enum": ["Paris", "Rome"]}, "old": {"type": "boolean"}},
        "required": ["city", "old"],
        "additionalProperties": False,
    }
    chat.page.select_option("#model", "smollm2")
    chat.from_sidebar("#open-settings")
    chat.page.check("[data-setting=use_schema]")
    chat.page.fill("[data-setting=schema]", '{"type": ')
    assert "no JSON" in chat.page.inner_text("#schema-error")
    chat.page.fill("[data-setting=schema]", json.dumps(schema))
    assert chat.page.locator("#schema-error").inner_text() == ""
    chat.page.fill("[data-setting=temperature]", "1.5")
    chat.leave()
    chat.ask("Tell me of a city.")
    answer = json.loads(chat.page.locator(".message.assistant pre").inner_text())
    assert answer["city"] in ("Paris", "Rome")
    assert set(answer) == {"city", "old"}
    assert "follows the schema" in chat.page.locator(".message.assistant").inner_text()


def test_a_guards_verdict_is_shown(chat: Driver) -> None:
    """As a server with a guard streams it: a refusal, then the reason content_filter."""
    deltas: list[tuple[dict[str, str], str | None]] = [
        ({"role": "assistant", "content": ""}, None),
        ({"content": "I begin"}, None),
        ({"refusal": "The answer is unsafe: Violent Crimes (S1)."}, None),
        ({}, "content_filter"),
    ]
    chunks = [{"choices": [{"index": 0, "delta": delta, "finish_reason": reason}]} for delta, reason in deltas]
    stream = "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks) + "data: [DONE]\n\n"
    chat.page.route("**/v1/chat/*", lambda route: route.fulfill(body=stream, content_type="text/event-stream"))
    assert chat.ask("Something bad") == "I begin"
    assert "guard ended this answer. The answer is unsafe: Violent Crimes (S1)." in chat.page.inner_text(".guard")
    assert "ended by the guard" in chat.page.inner_text(".stats")


@ONE_WIDTH
def test_a_real_model_answers_stops_and_is_free_again(chat: Driver) -> None:
    chat.page.select_option("#model", "smollm2")
    chat.set_up(max_tokens="12", temperature="0")
    assert "Paris" in chat.ask("What is the capital of France?")
    chat.until("/[\\d.]+ [GM]B/.test(document.querySelector('#memory').textContent)")
    chat.set_up(max_tokens="")
    chat.type("Tell me a very long story about a fox.")
    chat.page.wait_for_selector(".message:last-child .body:not(.none)")
    chat.page.click("#stop")
    assert chat.finished()
    assert chat.page.locator(".stats").last.inner_text() == "stopped"
    deadline = time.monotonic() + 60
    while any(model["running"] for model in chat.server.running.get("/status").json()["models"]):
        assert time.monotonic() < deadline, "the model goes on writing"
        time.sleep(0.05)


def test_an_error_of_the_server_is_shown_and_the_question_stays(chat: Driver) -> None:
    chat.page.route(
        "**/v1/chat/completions",
        lambda route: route.fulfill(status=429, json={"error": {"message": "too many", "code": "queue_full"}}),
    )
    chat.type("Hello")
    chat.page.wait_for_selector(".message .error")
    assert chat.page.inner_text(".message .error") == "too many"
    chat.page.unroute("**/v1/chat/completions")
    chat.act("again")
    chat.until_last("You said: Hello")
    chat.complaints[:] = [said for said in chat.complaints if "429" not in said]
