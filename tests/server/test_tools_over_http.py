"""Tools in all three protocols, through their own clients, with a model that says what the test wants."""

import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import anthropic
import ollama
import openai
import pytest

from llama3_mlx.generation.options import GenerationOptions

from ..support.scripted_llama import Script, scripted_server
from ..support.server_fixtures import Running

QUESTION: list[Any] = [{"role": "user", "content": "What is the weather in Rome?"}]
CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WEATHER: Any = {"type": "function", "function": {"name": "weather", "description": "Tell it", "parameters": CITY}}
ARGUMENTS = '{"city": "Rome"}'
CALL = '{"name": "weather", "parameters": {"city": "Rome"}}'
Serve = Callable[[Script | str], AbstractContextManager[tuple[Running, list[str]]]]


@pytest.fixture
def serve(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Serve:
    def start(script: Script | str) -> AbstractContextManager[tuple[Running, list[str]]]:
        said = script if callable(script) else (lambda prompt, options: str(script))
        return scripted_server(monkeypatch, {"tiny": tiny_folder}, said)

    return start


def openai_client(server: Running) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)


def anthropic_client(server: Running) -> anthropic.Anthropic:
    return anthropic.Anthropic(base_url=server.url, api_key="none", max_retries=0)


def tokens(server: Running, text: str) -> int:
    return int(server.post("/tokenize", {"prompt": text, "add_special_tokens": False}).json()["count"])


def is_beginning(arguments: str) -> bool:
    """Whether these are the beginning of the call's arguments, where exactly the limit's token ends."""
    return bool(arguments) and arguments != ARGUMENTS and ARGUMENTS.startswith(arguments)


def test_a_call_that_a_limit_cuts_off_comes_as_far_as_it_got_with_the_reason_length(serve: Serve) -> None:
    """As OpenAI has it: finish_reason length, the arguments a beginning of JSON; the text stays empty."""
    with serve(f"{CALL}; {CALL}") as (server, _), openai_client(server) as client:
        limit = tokens(server, f'{CALL}; {{"name": "weather", "parameters": {{"city"')
        asked: dict[str, Any] = {"model": "tiny", "messages": QUESTION, "tools": [WEATHER], "max_tokens": limit}
        choice = client.chat.completions.create(**asked, tool_choice="required").choices[0]
        chunks = list(client.chat.completions.create(**asked, tool_choice="required", stream=True))
    assert choice.finish_reason == "length"
    assert not choice.message.content
    assert choice.message.tool_calls is not None
    first, second = choice.message.tool_calls
    assert first.type == second.type == "function"
    assert json.loads(first.function.arguments) == {"city": "Rome"}
    assert second.function.name == "weather"
    cut = second.function.arguments
    assert is_beginning(cut)
    deltas = [chunk.choices[0].delta for chunk in chunks if chunk.choices]
    assert "".join(delta.content or "" for delta in deltas) == ""
    streamed = [call.function for delta in deltas for call in delta.tool_calls or ()]
    assert [call.arguments for call in streamed if call] == ['{"city": "Rome"}', cut]
    assert chunks[-1].choices[0].finish_reason == "length"


def test_a_cut_call_is_incomplete_in_responses_and_ends_at_max_tokens_in_messages(serve: Serve) -> None:
    function: Any = {"type": "function", **WEATHER["function"]}
    tool: Any = {"name": "weather", "input_schema": CITY}
    with serve(CALL) as (server, _), openai_client(server) as client, anthropic_client(server) as other:
        limit = tokens(server, '{"name": "weather", "parameters": {"city": "Ro')
        response = client.responses.create(
            model="tiny", input="Rome?", tools=[function], max_output_tokens=limit, tool_choice="required"
        )
        message = other.messages.create(model="tiny", messages=QUESTION, tools=[tool], max_tokens=limit)
    assert (response.status, response.output_text) == ("incomplete", "")
    [item] = response.output
    assert item.type == "function_call"
    assert item.status == "incomplete"
    assert is_beginning(item.arguments)
    assert message.stop_reason == "max_tokens"
    assert [block.type for block in message.content] == ["tool_use"]


def test_tools_in_namespaces_are_called_by_their_own_names(serve: Serve) -> None:
    def script(prompt: str, options: GenerationOptions) -> str:
        return "It is sunny." if "42 degrees" in prompt else CALL

    inner = {"type": "function", "name": "weather", "description": "Tell it", "parameters": CITY}
    tools: Any = [
        {"type": "namespace", "name": "mcp__sky", "description": "The sky", "tools": [inner]},
        {"type": "web_search"},
    ]
    with serve(script) as (server, prompts), openai_client(server) as client:
        response = client.responses.create(model="tiny", input="Rome?", tools=tools)
        [call] = response.output
        assert call.type == "function_call"
        assert (call.name, call.namespace, json.loads(call.arguments)) == ("weather", "mcp__sky", {"city": "Rome"})
        assert response.model_extra is not None
        assert response.model_extra["notes"] == ["tools that can't be used here were left out: web_search"]
        result: Any = {"type": "function_call_output", "call_id": call.call_id, "output": "42 degrees"}
        final = client.responses.create(model="tiny", input=[result], tools=tools, previous_response_id=response.id)
    assert final.output_text == "It is sunny."
    assert "42 degrees" in prompts[-1]


@pytest.mark.parametrize("namespace_first", [True, False])
def test_a_tool_in_a_namespace_may_be_called_as_one_outside(serve: Serve, namespace_first: bool) -> None:
    inner = {"type": "function", "name": "weather", "description": "Tell it", "parameters": CITY}
    tools: Any = [{"type": "namespace", "name": "sky", "description": "The sky", "tools": [inner]}, inner]
    said = [CALL, CALL.replace("weather", "sky__weather")]
    with serve(lambda *_: said.pop(0)) as (server, _), openai_client(server) as client:
        given = tools if namespace_first else tools[::-1]
        calls: list[Any] = [
            client.responses.create(model="tiny", input="Rome?", tools=given).output[0] for _ in range(2)
        ]
    assert [(call.name, call.namespace) for call in calls] == [("weather", None), ("weather", "sky")]


def test_a_custom_tool_gets_its_text_in_chats_and_responses(serve: Serve) -> None:
    said = '{"name": "shell", "parameters": {"input": "ls -l"}}'
    chat_tool: Any = {"type": "custom", "custom": {"name": "shell", "description": "Run it"}}
    tool: Any = {"type": "custom", "name": "shell", "description": "Run it"}
    with serve(said) as (server, prompts), openai_client(server) as client:
        reply = client.chat.completions.create(model="tiny", messages=QUESTION, tools=[chat_tool])
        calls: list[Any] = list(reply.choices[0].message.tool_calls or ())
        call = calls[0]
        with client.responses.stream(model="tiny", input="List.", tools=[tool]) as stream:
            kinds = [event.type for event in stream]
            [item] = stream.get_final_response().output
        assert call.type == "custom"
        history: Any = [
            *QUESTION,
            {"role": "assistant", "tool_calls": [call.model_dump()]},
            {"role": "tool", "tool_call_id": call.id, "content": "total 0"},
        ]
        client.chat.completions.create(model="tiny", messages=history, tools=[chat_tool])
    assert (call.custom.name, call.custom.input) == ("shell", "ls -l")
    assert item.type == "custom_tool_call"
    assert (item.name, item.input) == ("shell", "ls -l")
    assert "response.custom_tool_call_input.done" in kinds
    assert "ls -l" in prompts[-1]


def test_of_the_allowed_tools_one_is_called(serve: Serve) -> None:
    news: Any = {"type": "function", "function": {"name": "news", "parameters": {"type": "object", "properties": {}}}}
    allowed: Any = {
        "type": "allowed_tools",
        "allowed_tools": {"mode": "required", "tools": [{"type": "function", "function": {"name": "weather"}}]},
    }
    with serve(CALL) as (server, prompts), openai_client(server) as client:
        reply = client.chat.completions.create(
            model="tiny", messages=QUESTION, tools=[news, WEATHER], tool_choice=allowed
        )
    assert reply.choices[0].finish_reason == "tool_calls"
    assert '"news"' not in prompts[-1]


def test_a_response_refers_to_items_that_are_stored_and_is_refused_others(serve: Serve) -> None:
    with serve("It is sunny.") as (server, prompts), openai_client(server) as client:
        first = client.responses.create(model="tiny", input="Rome?")
        items: Any = [{"type": "item_reference", "id": first.output[0].id}, {"role": "user", "content": "And Oslo?"}]
        client.responses.create(model="tiny", input=items)
        assert "It is sunny." in prompts[-1]
        listed: list[Any] = client.responses.input_items.list(first.id).data
        assert [item.content[0].text for item in listed if item.type == "message" and item.role == "user"] == ["Rome?"]
        with pytest.raises(openai.NotFoundError, match="msg_nothing"):
            client.responses.create(model="tiny", input=[{"type": "item_reference", "id": "msg_nothing"}])
        with pytest.raises(openai.BadRequestError, match="background"):
            client.responses.cancel(first.id)
        counted = client.responses.input_tokens.count(model="tiny", input="Rome?")
        assert first.usage is not None
        assert counted.input_tokens == first.usage.input_tokens


def test_anthropics_tool_runner_keeps_the_dialog_that_the_server_does_not_hold(serve: Serve) -> None:
    """The runner asks for a thread by default, and sends the whole conversation where that is refused."""

    @anthropic.beta_tool
    def weather(city: str) -> str:
        """Tell the weather.

        Args:
            city: The city.
        """
        return f"42 degrees in {city}"

    def script(prompt: str, options: GenerationOptions) -> str:
        return "It is hot." if "42 degrees in Rome" in prompt else CALL

    with serve(script) as (server, prompts), anthropic_client(server) as client:
        runner = client.beta.messages.tool_runner(model="tiny", max_tokens=100, messages=QUESTION, tools=[weather])
        final = runner.until_done()
    assert final.content[0].type == "text"
    assert final.content[0].text == "It is hot."
    assert "What is the weather in Rome?" in prompts[-1]


def test_anthropics_own_tools_are_left_out_with_a_note(serve: Serve) -> None:
    tools: Any = [
        {"type": "web_search_20250305", "name": "web_search"},
        {"name": "weather", "input_schema": CITY},
    ]
    with serve(CALL) as (server, _), anthropic_client(server) as client:
        message = client.messages.create(model="tiny", messages=QUESTION, tools=tools, max_tokens=100)
    assert message.stop_reason == "tool_use"
    assert message.model_extra == {"notes": ["tools that can't be used here were left out: web_search"]}


def test_a_prompt_in_the_models_own_format_is_read_as_such_where_that_is_asked_for(serve: Serve) -> None:
    """The ids are those of the chat template, which transformers' tests hold to its own."""
    with serve("Hi.") as (server, _), openai_client(server) as client:
        written = server.post("/apply-template", {"messages": QUESTION}).json()

        def counted(**more: Any) -> int:
            reply = client.completions.create(model="tiny", prompt=written["prompt"], **more)
            assert reply.usage is not None
            return reply.usage.prompt_tokens

        assert counted(extra_body={"parse_special": True}) == len(written["tokens"])
        assert counted() > len(written["tokens"])
        raw = {"model": "tiny", "prompt": written["prompt"], "raw": True, "stream": False}
        opened = server.post("/api/generate", {**raw, "options": {"parse_special": True}}).json()
        assert opened["prompt_eval_count"] == len(written["tokens"])
        assert server.post("/api/generate", raw).json()["prompt_eval_count"] == counted()


def test_with_tools_and_a_format_an_answer_is_a_call_or_follows_the_format(serve: Serve) -> None:
    """The constraint must allow both: the scripted model says nothing that it forbids."""

    def script(prompt: str, options: GenerationOptions) -> str:
        return '{"degrees": 42}' if "42 degrees" in prompt else CALL

    schema = {"type": "object", "properties": {"degrees": {"type": "integer"}}, "required": ["degrees"]}
    with serve(script) as (server, _), openai_client(server) as client:
        asked: dict[str, Any] = {
            "model": "tiny",
            "tools": [WEATHER],
            "response_format": {"type": "json_schema", "json_schema": {"name": "r", "schema": schema}},
        }
        first = client.chat.completions.create(messages=QUESTION, **asked).choices[0]
        assert first.finish_reason == "tool_calls"
        assert first.message.tool_calls is not None
        results: Any = [
            *QUESTION,
            first.message.model_dump(exclude_none=True),
            {"role": "tool", "tool_call_id": first.message.tool_calls[0].id, "content": "42 degrees"},
        ]
        final = client.chat.completions.create(messages=results, **asked).choices[0]
        limit = tokens(server, '{"degrees"')
        cut = client.chat.completions.create(messages=results, max_tokens=limit, **asked).choices[0]
    assert (final.finish_reason, final.message.content) == ("stop", '{"degrees": 42}')
    # The beginning of an answer is no beginning of a call.
    assert (cut.finish_reason, cut.message.tool_calls) == ("length", None)
    assert cut.message.content
    assert '{"degrees": 42}'.startswith(cut.message.content)


def test_anthropics_and_ollamas_clients_get_a_call_and_then_an_answer_of_the_format(serve: Serve) -> None:
    """As above, by `output_config` and by `format`."""

    def script(prompt: str, options: GenerationOptions) -> str:
        return '{"degrees": 42}' if "42 degrees" in prompt else CALL

    schema = {"type": "object", "properties": {"degrees": {"type": "integer"}}, "required": ["degrees"]}
    with serve(script) as (server, _), anthropic_client(server) as client, ollama.Client(host=server.url) as other:
        asked: dict[str, Any] = {"model": "tiny", "max_tokens": 100}
        asked["tools"] = [{"name": "weather", "input_schema": CITY}]
        asked["output_config"] = {"format": {"type": "json_schema", "schema": schema}}
        first = client.messages.create(messages=QUESTION, **asked)
        [use] = first.content
        assert (first.stop_reason, use.type) == ("tool_use", "tool_use")
        result = {"type": "tool_result", "tool_use_id": use.id, "content": "42 degrees"}
        history = [*QUESTION, {"role": "assistant", "content": [use]}, {"role": "user", "content": [result]}]
        [text] = client.messages.create(messages=history, **asked).content
        assert (text.type, text.text) == ("text", '{"degrees": 42}')
        said = other.chat("tiny", QUESTION, tools=[WEATHER], format=schema).message
        assert said.tool_calls is not None
        assert said.tool_calls[0].function.arguments == {"city": "Rome"}
        known = [*QUESTION, said, {"role": "tool", "tool_name": "weather", "content": "42 degrees"}]
        assert other.chat("tiny", known, tools=[WEATHER], format=schema).message.content == '{"degrees": 42}'


TWICE = {"type": "object", "properties": {"a": {"type": "array", "uniqueItems": True}}, "required": ["a"]}
SAID_TWICE = '{"name": "f", "parameters": {"a": [1, 1]}}'
# The verdict is JSON Schema's, uniqueItems: https://json-schema.org/draft/2020-12/json-schema-validation.
NOTE = "the call of f doesn't fit its schema: f.a has an item twice"
FUNCTION = {"name": "f", "parameters": TWICE}
WITH_TOOL: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": QUESTION, "tools": [{"type": "function", "function": FUNCTION}]},
    "/v1/responses": {"input": "Hi", "tools": [{"type": "function", **FUNCTION}]},
    "/v1/messages": {"messages": QUESTION, "max_tokens": 99, "tools": [{"name": "f", "input_schema": TWICE}]},
    "/api/chat": {"messages": QUESTION, "tools": [{"type": "function", "function": FUNCTION}]},
}


def test_a_call_outside_of_what_no_grammar_holds_comes_with_a_note(serve: Serve) -> None:
    with serve(lambda *_: SAID_TWICE) as (server, _):
        for path, asked in WITH_TOOL.items():
            whole = server.post(path, {**asked, "stream": False})
            assert whole.json()["notes"] == [NOTE], path
            assert whole.headers["x-notes"] == NOTE
            streamed = server.post(path, {**asked, "stream": True}).text
            lines = [line.removeprefix("data: ") for line in streamed.splitlines()]
            events = [json.loads(line) for line in lines if line.startswith("{")]
            # With the end of the answer, which is the last event or the one before.
            noted = [event for event in events[-2:] if NOTE in (event.get("response") or event).get("notes", ())]
            assert noted, path
