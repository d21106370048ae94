"""OpenAI's own client, unmodified, against a real server on loopback."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from llama3_mlx import Llama

from ..support.server_fixtures import Running, running_server

QUESTION: list[Any] = [{"role": "user", "content": "What is the capital of France?"}]


@pytest.fixture(scope="module")
def server(smollm2_folder: Path) -> Iterator[Running]:
    with running_server({"smollm2": smollm2_folder}) as running:
        yield running


@pytest.fixture(scope="module")
def client(server: Running) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as made:
        yield made


@pytest.fixture(scope="module")
def llama(smollm2_folder: Path) -> Llama:
    return Llama.load(smollm2_folder)


@pytest.fixture(scope="module")
def expected(llama: Llama) -> str:
    """What the same model says when it is called without a server."""
    return llama.chat(QUESTION, max_tokens=5, temperature=0).text


def test_a_chat_gives_the_text_that_the_model_gives_without_a_server(client: openai.OpenAI, expected: str) -> None:
    reply = client.chat.completions.create(model="smollm2", messages=QUESTION, max_tokens=5, temperature=0)
    assert reply.choices[0].message.content == expected
    assert reply.choices[0].finish_reason == "length"
    assert reply.usage is not None
    assert reply.usage.completion_tokens == 5
    assert reply.usage.total_tokens == reply.usage.prompt_tokens + 5


def test_a_stream_gives_the_same_text_with_usage_last(client: openai.OpenAI, expected: str) -> None:
    chunks = list(
        client.chat.completions.create(
            model="smollm2",
            messages=QUESTION,
            max_tokens=5,
            temperature=0,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == expected
    assert next(c.choices[0].delta.role for c in chunks if c.choices) == "assistant"
    assert {c.id for c in chunks} == {chunks[0].id}
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "length"
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 5
    assert all(c.usage is None for c in chunks[:-1])


def test_the_async_client_runs_several_chats_at_once(server: Running, expected: str) -> None:
    async def ask() -> list[str | None]:
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
            replies = await asyncio.gather(
                *(
                    client.chat.completions.create(model="smollm2", messages=QUESTION, max_tokens=5, temperature=0)
                    for _ in range(4)
                )
            )
        return [reply.choices[0].message.content for reply in replies]

    assert asyncio.run(ask()) == [expected] * 4


def test_null_counts_as_absent_in_every_optional_field(server: Running) -> None:
    names = [
        "model",
        "temperature",
        "top_p",
        "n",
        "stop",
        "stream",
        "stream_options",
        "seed",
        "presence_penalty",
        "frequency_penalty",
        "logit_bias",
        "logprobs",
        "top_logprobs",
        "tools",
        "tool_choice",
        "parallel_tool_calls",
        "response_format",
        "user",
        "metadata",
        "store",
        "max_tokens",
    ]
    nulls = dict.fromkeys(names)
    reply = server.post("/v1/chat/completions", {**nulls, "messages": QUESTION, "max_completion_tokens": 1})
    assert reply.status_code == 200, reply.text
    assert reply.json()["usage"]["completion_tokens"] == 1
    assert "x-ignored-parameters" not in reply.headers


def test_fields_that_mean_nothing_here_are_named_in_a_header(server: Running) -> None:
    body = {"messages": QUESTION, "max_tokens": 1, "store": True, "reasoning_effort": "low"}
    assert server.post("/v1/chat/completions", body).headers["x-ignored-parameters"] == "reasoning_effort, store"


def test_ignored_fields_inside_others_are_named_by_their_paths(server: Running) -> None:
    said = [{"role": "user", "content": "Hi", "cache_control": {"type": "ephemeral"}}]
    body = {"messages": said, "max_tokens": 1, "stream_options": {"include_usage": True, "include_obfuscation": False}}
    names = server.post("/v1/chat/completions", body).headers["x-ignored-parameters"]
    assert names == "messages.cache_control, stream_options.include_obfuscation"
    options = {"num_predict": 1, "num_ctx": 4096, "num_gpu": 1}
    names = server.post("/api/generate", {"prompt": "Hi", "options": options, "truncate": False}).headers[
        "x-ignored-parameters"
    ]
    assert names == "options.num_ctx, options.num_gpu, truncate"


@pytest.mark.parametrize(
    ("path", "fields", "name"),
    [
        ("/v1/chat/completions", {"functions": [{"name": "f"}]}, "functions"),
        ("/v1/chat/completions", {"modalities": ["text", "audio"]}, "modalities"),
        ("/v1/chat/completions", {"tool_choice": "required"}, "tool_choice"),
        ("/v1/chat/completions", {"bad_words": ["x"]}, "bad_words"),
        ("/api/generate", {"options": {"mirostat": 2}}, "mirostat"),
        ("/v1/chat/completions", {"allowed_token_ids": [2]}, "allowed_token_ids"),
        ("/v1/chat/completions", {"add_generation_prompt": False}, "add_generation_prompt"),
        ("/v1/completions", {"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
        ("/v1/responses", {"conversation": "conv_1"}, "conversation"),
        ("/v1/responses", {"max_tokens": 5}, "max_tokens"),
        ("/v1/responses", {"tool_choice": "required"}, "tool_choice"),
        ("/v1/messages", {"tool_choice": {"type": "any"}}, "tool_choice"),
        ("/v1/messages", {"mcp_servers": [{"url": "http://x"}]}, "mcp_servers"),
    ],
)
def test_fields_that_would_change_the_answer_and_cannot_are_refused_by_name(
    server: Running, path: str, fields: dict[str, Any], name: str
) -> None:
    bodies: dict[str, Any] = {
        "/v1/chat/completions": {"messages": QUESTION},
        "/v1/completions": {"prompt": "a"},
        "/v1/responses": {"input": "a"},
        "/v1/messages": {"messages": QUESTION, "max_tokens": 1},
        "/api/generate": {"prompt": "a"},
    }
    reply = server.post(path, {**bodies[path], **fields})
    assert reply.status_code == 400, reply.text
    assert name in reply.text
    if path.startswith("/v1/") and path != "/v1/messages":
        assert reply.json()["error"]["param"] == name


def test_a_begun_answer_is_gone_on_with_where_that_is_asked_for(client: openai.OpenAI, llama: Llama) -> None:
    dialog = [*QUESTION, {"role": "assistant", "content": "The capital of"}]
    extra = {"continue_final_message": True, "add_generation_prompt": False}
    reply = client.chat.completions.create(
        model="smollm2", messages=dialog, max_tokens=5, temperature=0, extra_body=extra
    )
    prompt = llama.encode_chat(dialog, continue_final=True)
    assert reply.choices[0].message.content == llama.generate(prompt, max_tokens=5, temperature=0).text


def test_completions_take_a_response_format(client: openai.OpenAI) -> None:
    schema = {"type": "integer", "minimum": 0, "maximum": 9}
    form = {"type": "json_schema", "json_schema": {"name": "digit", "schema": schema}}
    reply = client.completions.create(model="smollm2", prompt="A digit:", extra_body={"response_format": form})
    assert reply.choices[0].text in [str(digit) for digit in range(10)]


def test_the_same_seed_gives_the_same_text_and_each_choice_its_own(client: openai.OpenAI) -> None:
    def ask(seed: int) -> list[str | None]:
        reply = client.chat.completions.create(
            model="smollm2", messages=QUESTION, max_tokens=8, temperature=1.5, seed=seed, n=2
        )
        return [choice.message.content for choice in reply.choices]

    first = ask(1)
    assert first == ask(1)
    assert first != ask(2)
    assert first[0] != first[1]


def test_a_stop_text_ends_the_answer_before_it(client: openai.OpenAI) -> None:
    reply = client.completions.create(model="smollm2", prompt="1, 2, 3, 4,", max_tokens=20, temperature=0, stop=[" 7"])
    assert reply.choices[0].text == " 5, 6,"
    assert reply.choices[0].finish_reason == "stop"


def test_completions_take_texts_and_token_ids_and_count_each_prompt_once(client: openai.OpenAI) -> None:
    texts = client.completions.create(model="smollm2", prompt=["One, two,", "A, B,"], n=2, max_tokens=4, temperature=0)
    assert [choice.index for choice in texts.choices] == [0, 1, 2, 3]
    assert texts.choices[0].text == texts.choices[1].text != texts.choices[2].text
    assert texts.usage is not None
    assert texts.usage.completion_tokens == 16
    ids: list[list[int]] = [[4, 5, 6], [7]]
    by_ids = client.completions.create(model="smollm2", prompt=ids, max_tokens=1)
    assert by_ids.usage is not None
    assert by_ids.usage.prompt_tokens == 4


def test_models_are_listed_and_found_by_name(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["smollm2"]
    assert client.models.retrieve("smollm2").object == "model"
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("owner/other")
    assert caught.value.code == "model_not_found"


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"model": "gpt-9"}, openai.NotFoundError, "no model 'gpt-9'; there are: smollm2"),
        ({"temperature": -1}, openai.BadRequestError, "temperature"),
        ({"temperature": "hot"}, openai.BadRequestError, "temperature"),
        ({"messages": []}, openai.BadRequestError, "empty"),
        ({"messages": [{"role": "king", "content": "x"}]}, openai.BadRequestError, "king"),
        ({"messages": [{"role": "user", "content": "x" * 100_000}]}, openai.BadRequestError, "context is 8192"),
        ({"n": 1000}, openai.BadRequestError, "at most 16"),
        ({"top_logprobs": 3}, openai.BadRequestError, "logprobs"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, openai.BadRequestError, "image_url"),
    ],
)
def test_what_is_wrong_is_refused_with_openais_error(
    client: openai.OpenAI, changes: dict[str, Any], error: type[openai.APIStatusError], words: str
) -> None:
    with pytest.raises(error, match=words) as caught:
        client.chat.completions.create(**{"model": "smollm2", "messages": QUESTION, "max_tokens": 1, **changes})
    body = caught.value.body
    assert isinstance(body, dict)
    assert set(body) == {"message", "type", "param", "code"}


def test_a_prompt_past_the_context_says_so_in_its_code(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(model="smollm2", prompt=[1] * 9000)
    assert caught.value.code == "context_length_exceeded"
