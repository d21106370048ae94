"""Anthropic's own client, unmodified, against a real server on loopback."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anthropic
import pytest

from llama3_mlx import Llama

from ..support.server_fixtures import Running, running_server

QUESTION: list[Any] = [{"role": "user", "content": "What is the capital of France?"}]


@pytest.fixture(scope="module")
def server(smollm2_folder: Path) -> Iterator[Running]:
    with running_server({"smollm2": smollm2_folder}, api_key="secret") as running:
        yield running


@pytest.fixture(scope="module")
def client(server: Running) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=server.url, api_key="secret", max_retries=0) as made:
        yield made


@pytest.fixture(scope="module")
def llama(smollm2_folder: Path) -> Llama:
    return Llama.load(smollm2_folder)


def test_a_message_gives_the_models_text_and_counts(client: anthropic.Anthropic, llama: Llama) -> None:
    reply = client.messages.create(model="smollm2", max_tokens=5, messages=QUESTION)
    [block] = reply.content
    assert isinstance(block, anthropic.types.TextBlock)
    assert block.text == llama.chat(QUESTION, max_tokens=5, temperature=0).text
    assert reply.stop_reason == "max_tokens"
    cached = reply.usage.cache_read_input_tokens or 0
    assert reply.usage.input_tokens + cached == len(llama.encode_chat(QUESTION))
    assert reply.usage.output_tokens == 5


def test_a_stream_adds_up_to_the_message(client: anthropic.Anthropic, llama: Llama) -> None:
    with client.messages.stream(model="smollm2", max_tokens=5, messages=QUESTION) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    assert text == llama.chat(QUESTION, max_tokens=5, temperature=0).text
    [block] = final.content
    assert isinstance(block, anthropic.types.TextBlock)
    assert block.text == text
    assert (final.stop_reason, final.usage.output_tokens) == ("max_tokens", 5)


def test_max_tokens_may_be_more_than_the_context_leaves(client: anthropic.Anthropic) -> None:
    for limit in (8192, 12_000):
        reply = client.messages.create(model="smollm2", max_tokens=limit, messages=QUESTION, stop_sequences=["France"])
        assert reply.stop_reason == "stop_sequence"


def test_a_stop_sequence_is_named(client: anthropic.Anthropic) -> None:
    reply = client.messages.create(
        model="smollm2",
        max_tokens=20,
        messages=QUESTION,
        stop_sequences=["Rome", " Paris"],
    )
    assert (reply.stop_reason, reply.stop_sequence) == ("stop_sequence", " Paris")


def test_system_blocks_and_a_begun_answer_reach_the_dialog(client: anthropic.Anthropic, llama: Llama) -> None:
    messages: list[Any] = [*QUESTION, {"role": "assistant", "content": "The capital of"}]
    count = client.messages.count_tokens(
        model="smollm2", messages=messages, system=[{"type": "text", "text": "Be brief."}]
    )
    assert llama.dialog is not None
    dialog = [{"role": "system", "content": "Be brief."}, *messages]
    assert count.input_tokens == len(llama.dialog.encode(dialog, continue_final=True))


def test_a_form_holds_under_both_of_its_names(server: Running) -> None:
    form = {"type": "json_schema", "schema": {"enum": ["red", "blue"]}}
    body = {"messages": QUESTION, "max_tokens": 20}
    for fields in ({"output_config": {"format": form}}, {"output_format": form}):
        reply = server.post("/v1/messages", {**body, **fields}, headers={"x-api-key": "secret"}).json()
        assert reply["content"][0]["text"] in ('"red"', '"blue"')


def test_errors_have_anthropics_shape(client: anthropic.Anthropic, server: Running) -> None:
    with pytest.raises(anthropic.NotFoundError) as missing:
        client.messages.create(model="claude", max_tokens=5, messages=QUESTION)
    assert isinstance(missing.value.body, dict)
    assert missing.value.body["type"] == "error"
    assert missing.value.body["error"]["type"] == "not_found_error"
    with pytest.raises(anthropic.AuthenticationError):
        client.with_options(api_key="wrong").messages.create(model="smollm2", max_tokens=5, messages=QUESTION)
    with pytest.raises(anthropic.BadRequestError, match="text"):
        image: Any = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "aGk="}}
        client.messages.create(model="smollm2", max_tokens=5, messages=[{"role": "user", "content": [image]}])
