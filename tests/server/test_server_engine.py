"""What the engine can, through the clients' protocols: real clients against a real server with a tiny model."""

import concurrent.futures
import json
import re
import threading
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import Any

import anthropic
import ollama
import openai
import pytest
from pydantic import BaseModel, ConfigDict

from llama3_mlx import Llama

from ..support.server_fixtures import Running, running_server, save_adapter

QUESTION: list[Any] = [{"role": "user", "content": "What is the weather in Rome?"}]
PARAMETERS = {
    "type": "object",
    "properties": {"city": {"enum": ["Rome", "Oslo"]}, "days": {"enum": [1, 2]}},
    "required": ["city"],
    "additionalProperties": False,
}
TOOL: Any = {"type": "function", "function": {"name": "weather", "description": "Tell it", "parameters": PARAMETERS}}
OTHER: Any = {"type": "function", "function": {"name": "news", "parameters": {"type": "object", "properties": {}}}}


class Color(Enum):
    RED = "red"
    BLUE = "blue"


class Car(BaseModel):
    model_config = ConfigDict(extra="forbid")
    color: Color
    doors: bool


@pytest.fixture(scope="module")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two random adapters of mlx-lm's layout for the tiny model."""
    names = ("one", "two")
    return {name: save_adapter(tmp_path_factory.mktemp(name), 128, 64, seed=i) for i, name in enumerate(names)}


@pytest.fixture(scope="module")
def server(tiny_folder: Path, adapters: dict[str, Path]) -> Iterator[Running]:
    with running_server({"tiny": tiny_folder}, adapters) as running:
        yield running


@pytest.fixture(scope="module")
def client(server: Running) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as made:
        yield made


@pytest.fixture(scope="module")
def llama(tiny_folder: Path, adapters: dict[str, Path]) -> Iterator[Llama]:
    with Llama.load(tiny_folder, adapters=adapters) as loaded:
        yield loaded


def test_parsed_answers_are_objects_of_their_class(client: openai.OpenAI) -> None:
    for seed in range(4):
        reply = client.chat.completions.parse(
            model="tiny", messages=QUESTION, response_format=Car, temperature=1.0, seed=seed, max_tokens=200
        )
        assert isinstance(reply.choices[0].message.parsed, Car)


def test_a_tool_that_is_required_is_called_with_fitting_arguments(client: openai.OpenAI) -> None:
    choices: list[Any] = ["required", {"type": "function", "function": {"name": "weather"}}]
    for choice in choices:
        reply = client.chat.completions.create(
            model="tiny", messages=QUESTION, tools=[TOOL], tool_choice=choice, parallel_tool_calls=False, max_tokens=300
        )
        (call,) = reply.choices[0].message.tool_calls or []
        assert reply.choices[0].finish_reason == "tool_calls"
        assert call.type == "function"
        assert call.function.name == "weather"
        assert json.loads(call.function.arguments)["city"] in ("Rome", "Oslo")


def test_calls_are_streamed_and_other_tools_are_not_called(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(
        model="tiny",
        messages=QUESTION,
        tools=[TOOL, OTHER],
        tool_choice={"type": "function", "function": {"name": "weather"}},
        parallel_tool_calls=False,
        max_tokens=300,
        stream=True,
    )
    chunks = list(stream)
    calls = [call for chunk in chunks for call in chunk.choices[0].delta.tool_calls or []]
    assert [call.function.name for call in calls if call.function] == ["weather"]
    assert chunks[-1].choices[0].finish_reason == "tool_calls"


def test_ollama_and_anthropic_clients_get_calls_and_forms(server: Running) -> None:
    with ollama.Client(host=server.url) as local:
        said = local.chat(model="tiny", messages=QUESTION, format=Car.model_json_schema(), options={"num_predict": 200})
    assert Car.model_validate_json(said.message.content or "")
    with anthropic.Anthropic(base_url=server.url, api_key="none", max_retries=0) as other:
        tool: Any = {"name": "weather", "description": "Tell it", "input_schema": PARAMETERS}
        reply = other.messages.create(
            model="tiny",
            max_tokens=300,
            messages=QUESTION,
            tools=[tool],
            tool_choice={"type": "any", "disable_parallel_tool_use": True},
        )
    (block,) = [block for block in reply.content if block.type == "tool_use"]
    assert reply.stop_reason == "tool_use"
    assert json.loads(json.dumps(block.input))["city"] in ("Rome", "Oslo")


def test_logprobs_are_the_engines(client: openai.OpenAI, llama: Llama) -> None:
    settings: dict[str, Any] = {"max_tokens": 4, "temperature": 0}
    expected = llama.chat(QUESTION, **settings, logprobs=2).logprobs
    assert expected is not None
    reply = client.chat.completions.create(model="tiny", messages=QUESTION, logprobs=True, top_logprobs=2, **settings)
    assert reply.choices[0].logprobs is not None
    found = reply.choices[0].logprobs.content or []
    assert [entry.logprob for entry in found] == pytest.approx([entry.logprob for entry in expected], abs=1e-4)
    assert [len(entry.top_logprobs) for entry in found] == [2] * 4
    assert bytes(found[0].bytes or []) == llama.tokenizer.token_bytes(expected[0].token)
    streamed = client.chat.completions.create(
        model="tiny", messages=QUESTION, logprobs=True, top_logprobs=2, stream=True, **settings
    )
    parts = [c.choices[0].logprobs.content or [] for c in streamed if c.choices and c.choices[0].logprobs]
    assert [entry.logprob for part in parts for entry in part] == [entry.logprob for entry in found]


def test_an_echo_scores_the_prompt(client: openai.OpenAI, llama: Llama) -> None:
    """As lm-evaluation-harness submissions: token ids, one token more, the prompt's log-probabilities."""
    ids = llama.tokenizer.encode("The quick brown fox jumps", bos=True)
    expected = llama.generate(ids, max_tokens=1, temperature=0, prompt_logprobs=1, logprobs=1)
    assert expected.prompt_logprobs is not None
    reply = client.completions.create(model="tiny", prompt=ids, max_tokens=1, temperature=0, echo=True, logprobs=1)
    found = reply.choices[0].logprobs
    assert found is not None
    assert found.token_logprobs is not None
    assert len(found.token_logprobs) == len(ids) + 1
    assert found.token_logprobs[0] is None
    wanted = [entry.logprob for entry in expected.prompt_logprobs]
    assert found.token_logprobs[1 : len(ids)] == pytest.approx(wanted, abs=1e-4)
    assert reply.choices[0].text.startswith("The quick brown fox jumps")
    text = client.completions.create(
        model="tiny", prompt="The quick", max_tokens=2, temperature=0, echo=True, stream=True
    )
    assert next(iter(text)).choices[0].text == "The quick"


def test_n_answers_have_one_prompt_and_their_own_seeds(client: openai.OpenAI, llama: Llama) -> None:
    reply = client.chat.completions.create(model="tiny", messages=QUESTION, n=3, seed=5, temperature=1.0, max_tokens=6)
    alone = [llama.chat(QUESTION, seed=5 + at, temperature=1.0, max_tokens=6).text for at in range(3)]
    assert [choice.message.content for choice in reply.choices] == alone


def test_adapters_over_one_base_answer_at_once(client: openai.OpenAI, llama: Llama, server: Running) -> None:
    names = ["tiny", "tiny:one", "tiny:two"] * 4
    wanted = {
        name: llama.chat(QUESTION, max_tokens=12, temperature=0, adapter=name.partition(":")[2] or None).text
        for name in set(names)
    }
    assert len(set(wanted.values())) == 3

    def ask(name: str) -> str | None:
        reply = client.chat.completions.create(model=name, messages=QUESTION, max_tokens=12, temperature=0)
        assert reply.model == name
        return reply.choices[0].message.content

    with concurrent.futures.ThreadPoolExecutor(12) as pool:
        assert list(pool.map(ask, names)) == [wanted[name] for name in names]
    assert [each["name"] for each in server.get("/status").json()["models"]] == ["tiny"]


def test_a_prompt_that_comes_again_is_not_run_again(client: openai.OpenAI) -> None:
    prompt = "A long beginning that many requests share. " * 20
    usages = [
        client.completions.create(model="tiny", prompt=prompt, max_tokens=2, temperature=0).usage for _ in range(2)
    ]
    assert all(usage is not None for usage in usages)
    second: Any = usages[1]
    assert second.prompt_tokens_details.cached_tokens >= second.prompt_tokens - 1


@pytest.mark.parametrize(
    ("form", "pattern"),
    [
        ({"choice": ["17 plums", "4 pears"]}, "17 plums|4 pears"),
        ({"regex": "[ab]{3}-[0-9]"}, "[ab]{3}-[0-9]"),
        ({"grammar": 'start: "yes" | "no"'}, "yes|no"),
        ({"json": {"type": "integer", "minimum": 0, "maximum": 9}}, "[0-9]"),
    ],
)
def test_forms_by_the_names_of_vllm_hold(client: openai.OpenAI, form: dict[str, Any], pattern: str) -> None:
    extra = {"structured_outputs": form}
    chat = client.chat.completions.create(model="tiny", messages=QUESTION, temperature=1.0, extra_body=extra)
    text = client.completions.create(model="tiny", prompt="Well", max_tokens=50, temperature=1.0, extra_body=extra)
    assert re.fullmatch(pattern, chat.choices[0].message.content or "")
    assert re.fullmatch(pattern, text.choices[0].text)


def test_answers_to_one_request_share_one_compiled_form(
    client: openai.OpenAI, server: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    client.completions.create(model="tiny", prompt="a", max_tokens=1)
    llama = server.app.state.server.models.slots["tiny"].loaded.llama
    compiled, compile_form = [], llama._submitter.compile

    def counted(options: Any) -> Any:
        compiled.append(options)
        return compile_form(options)

    monkeypatch.setattr(llama._submitter, "compile", counted)
    extra = {"structured_outputs": {"choice": ["red", "blue"]}}
    reply = client.chat.completions.create(
        model="tiny", messages=QUESTION, n=4, seed=1, temperature=1.0, extra_body=extra
    )
    assert {choice.message.content for choice in reply.choices} <= {"red", "blue"}
    assert len(compiled) == 1


@pytest.mark.parametrize("slow", ["dialog.encode", "compile"])
def test_others_are_served_while_a_prompt_is_tokenized_or_a_form_compiled(
    client: openai.OpenAI, server: Running, monkeypatch: pytest.MonkeyPatch, slow: str
) -> None:
    client.completions.create(model="tiny", prompt="a", max_tokens=1)
    llama = server.app.state.server.models.slots["tiny"].loaded.llama
    owner, name = (llama.dialog, "encode") if slow == "dialog.encode" else (llama._submitter, slow)
    begun, go_on, plain = threading.Event(), threading.Event(), getattr(owner, name)

    def held_up(*arguments: Any, **more: Any) -> Any:
        begun.set()
        assert go_on.wait(60)
        return plain(*arguments, **more)

    monkeypatch.setattr(owner, name, held_up)
    body = {"messages": QUESTION, "structured_outputs": {"choice": ["a"]}}
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        asked = pool.submit(server.post, "/v1/chat/completions", body)
        try:
            assert begun.wait(60)
            assert server.get("/api/tags").status_code == 200
            assert client.completions.create(model="tiny", prompt="a", max_tokens=1).usage is not None
        finally:
            go_on.set()
        assert asked.result().json()["choices"][0]["message"]["content"] == "a"


def test_what_no_form_can_be_is_refused(client: openai.OpenAI) -> None:
    bad: list[dict[str, Any]] = [
        {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "nonsense"}}}},
        {"logit_bias": {"999999999": 1}},
        {"extra_body": {"structured_outputs": {"choice": []}}},
        {"extra_body": {"structured_outputs": {"choices": ["a"]}}},
        {"extra_body": {"structured_outputs": {"choice": ["a"], "regex": "a"}}},
        {"extra_body": {"structured_outputs": {"regex": "a("}}},
        {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "absent"}}},
    ]
    for each in bad:
        with pytest.raises(openai.BadRequestError):
            client.chat.completions.create(model="tiny", messages=QUESTION, max_tokens=3, **each)


def test_an_answer_outside_of_what_no_grammar_holds_is_an_error(client: openai.OpenAI) -> None:
    """`not` can't be held: the one answer of the schema is outside of it."""
    schema = {"const": 3, "not": {"minimum": 2}}
    extra = {"structured_outputs": {"json": schema}}
    with pytest.raises(openai.UnprocessableEntityError, match="doesn't fit the schema: the answer is 3, which is excl"):
        client.chat.completions.create(model="tiny", messages=QUESTION, extra_body=extra)
