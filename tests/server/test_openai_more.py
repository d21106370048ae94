"""Responses, embeddings and tokens by OpenAI's own client and by plain HTTP, against a real server on loopback."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest
import torch
from transformers import AutoModel, AutoTokenizer

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


def test_a_response_is_the_chats_answer_and_can_be_gone_on_from(client: openai.OpenAI, llama: Llama) -> None:
    first = client.responses.create(
        model="smollm2", input=QUESTION[0]["content"], instructions="Be brief.", temperature=0, max_output_tokens=16
    )
    system = {"role": "system", "content": "Be brief."}
    assert first.output_text == llama.chat([system, *QUESTION], max_tokens=16, temperature=0).text
    assert first.status in ("completed", "incomplete")
    second = client.responses.create(
        model="smollm2", input="And of Italy?", previous_response_id=first.id, temperature=0, max_output_tokens=5
    )
    dialog = [
        *QUESTION,
        {"role": "assistant", "content": first.output_text},
        {"role": "user", "content": "And of Italy?"},
    ]
    assert second.usage is not None
    assert second.usage.input_tokens == len(llama.encode_chat(dialog))
    assert second.output_text == llama.chat(dialog, max_tokens=5, temperature=0).text
    assert (second.status, second.incomplete_details and second.incomplete_details.reason) == (
        "incomplete",
        "max_output_tokens",
    )
    assert client.responses.retrieve(first.id).output_text == first.output_text
    client.responses.delete(first.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(first.id)


def test_the_events_of_a_response_come_in_order_and_add_up(client: openai.OpenAI) -> None:
    with client.responses.stream(model="smollm2", input=QUESTION, temperature=0) as stream:
        events = list(stream)
        final = stream.get_final_response()
    kinds = [event.type for event in events]
    assert kinds[:4] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
    ]
    assert kinds[-4:] == [
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == final.output_text


def test_a_response_has_the_log_probabilities_that_are_asked_for(client: openai.OpenAI, llama: Llama) -> None:
    expected = llama.chat(QUESTION, max_tokens=3, temperature=0, logprobs=2).logprobs
    assert expected is not None
    reply = client.responses.create(
        model="smollm2",
        input=QUESTION,
        temperature=0,
        max_output_tokens=3,
        top_logprobs=2,
        include=["message.output_text.logprobs"],
    )
    [message] = reply.output
    assert message.type == "message"
    part: Any = message.content[0]
    assert [entry.logprob for entry in part.logprobs] == pytest.approx([e.logprob for e in expected], abs=1e-4)
    assert [len(entry.top_logprobs) for entry in part.logprobs] == [2] * 3
    events = client.responses.create(
        model="smollm2", input=QUESTION, temperature=0, max_output_tokens=3, top_logprobs=0, stream=True
    )
    deltas = [event for event in events if event.type == "response.output_text.delta"]
    assert [entry.token for delta in deltas for entry in delta.logprobs] == [entry.token for entry in part.logprobs]


def test_parts_and_function_outputs_reach_the_dialog(client: openai.OpenAI, llama: Llama) -> None:
    reply = client.responses.create(
        model="smollm2",
        max_output_tokens=1,
        store=False,
        input=[
            {"role": "developer", "content": "Be kind."},
            {"role": "user", "content": [{"type": "input_text", "text": "Hel"}, {"type": "input_text", "text": "lo"}]},
        ],
    )
    dialog = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hello"}]
    assert reply.usage is not None
    assert reply.usage.input_tokens == len(llama.encode_chat(dialog))
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(reply.id)


def test_embeddings_are_transformers_mean_hidden_state_of_length_one(
    client: openai.OpenAI, smollm2_folder: Path
) -> None:
    texts = ["The cat sleeps.", "Quarterly figures rose by a tenth."]
    model: Any = AutoModel.from_pretrained(smollm2_folder, dtype=torch.float32).eval()
    tokenizer: Any = AutoTokenizer.from_pretrained(smollm2_folder)
    expected = []
    with torch.no_grad():
        for text in texts:
            mean = model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0].mean(0).numpy()
            expected.append(mean / np.linalg.norm(mean))
    # The client submissions for base64 unless told otherwise.
    by_default = client.embeddings.create(model="smollm2", input=texts)
    as_floats = client.embeddings.create(model="smollm2", input=texts, encoding_format="float")
    np.testing.assert_allclose([entry.embedding for entry in by_default.data], expected, atol=1e-4)
    np.testing.assert_allclose(
        [entry.embedding for entry in as_floats.data], [entry.embedding for entry in by_default.data], atol=1e-7
    )
    assert by_default.usage.prompt_tokens == sum(len(tokenizer(text).input_ids) for text in texts)


def test_ollamas_embeddings_are_the_same(server: Running, client: openai.OpenAI) -> None:
    import ollama

    with ollama.Client(host=server.url) as other:
        theirs = other.embed("smollm2", ["a b", "c"]).embeddings
        older = other.embeddings("smollm2", "c").embedding
    ours = client.embeddings.create(model="smollm2", input=["a b", "c"], encoding_format="float").data
    np.testing.assert_allclose(theirs, [entry.embedding for entry in ours], atol=1e-6)
    np.testing.assert_allclose(older, ours[1].embedding, atol=1e-6)


def test_other_dimensions_than_the_models_are_refused(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="must be 576"):
        client.embeddings.create(model="smollm2", input="x", dimensions=64)


def test_text_goes_to_tokens_and_back(server: Running, smollm2_folder: Path) -> None:
    tokenizer: Any = AutoTokenizer.from_pretrained(smollm2_folder)
    text = "Grüße aus 東京 <|im_end|>"
    reply = server.post("/tokenize", {"prompt": text, "add_special_tokens": False}).json()
    assert reply["tokens"] == tokenizer(text, split_special_tokens=True).input_ids
    assert reply["count"] == len(reply["tokens"])
    assert reply["max_model_len"] == 8192
    assert server.post("/detokenize", {"tokens": reply["tokens"]}).json()["prompt"] == text
    assert server.post("/tokenize", {"prompt": "a", "messages": []}).status_code == 400
    assert server.post("/detokenize", {"tokens": [10**6]}).status_code == 400


def test_the_template_is_applied_as_transformers_does(server: Running, smollm2_folder: Path) -> None:
    tokenizer: Any = AutoTokenizer.from_pretrained(smollm2_folder)
    expected = tokenizer.apply_chat_template(QUESTION, tokenize=False, add_generation_prompt=True)
    assert server.post("/apply-template", {"messages": QUESTION}).json()["prompt"] == expected
    closed = tokenizer.apply_chat_template(QUESTION, tokenize=True, add_generation_prompt=False)["input_ids"]
    for path in ("/apply-template", "/tokenize"):
        asked = {"messages": QUESTION, "add_generation_prompt": False}
        assert server.post(path, asked).json()["tokens"] == closed
    info = server.get("/tokenizer_info").json()
    assert info["eos_token"] == tokenizer.eos_token
    assert info["chat_template"] == tokenizer.chat_template


def test_metrics_count_what_was_done(server: Running) -> None:
    def value(text: str, name: str) -> float:
        return next((float(line.split()[-1]) for line in text.splitlines() if line.startswith(name)), 0.0)

    name = 'llama3_mlx_generated_tokens_total{model="smollm2"}'
    before = value(server.get("/metrics").text, name)
    server.post("/v1/completions", {"prompt": "1, 2,", "max_tokens": 7, "temperature": 0})
    after = server.get("/metrics")
    assert value(after.text, name) == before + 7
    assert after.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert value(after.text, "llama3_mlx_time_to_first_token_seconds_count") >= 1
    assert server.get("/health").json() == {"status": "ok"}


def test_metrics_show_what_came_of_drafts(server: Running) -> None:
    words = "one two three four "
    body = {"prompt": words * 6, "regex": f"({words}){{8}}", "max_tokens": 48, "temperature": 0}
    server.post("/v1/completions", body)
    lines = dict(line.rsplit(" ", 1) for line in server.get("/metrics").text.splitlines() if line[0] != "#")
    at_first = '{model="smollm2",source="prompt lookup",position="1"}'
    drafted, accepted = (
        int(lines[f"llama3_mlx_{name}{at_first}"]) for name in ("draft_tokens_total", "accepted_draft_tokens_total")
    )
    assert 0 < accepted <= drafted
    passes = int(lines['llama3_mlx_forward_passes_total{model="smollm2"}'])
    assert 0 < passes < int(lines['llama3_mlx_generated_tokens_total{model="smollm2"}'])
    assert lines['llama3_mlx_forward_passes_without_drafts_total{model="smollm2"}'] == "0"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", {"max_tokens": 5}),
        ("/v1/responses", {"max_output_tokens": 5}),
        ("/v1/messages", {"max_tokens": 5}),
        ("/api/chat", {"options": {"num_predict": 5}}),
    ],
)
def test_every_protocol_counts_each_token_once(server: Running, path: str, body: dict[str, Any], stream: bool) -> None:
    def written() -> int:
        lines = server.get("/metrics").text.splitlines()
        name = 'llama3_mlx_generated_tokens_total{model="smollm2"} '
        return next((int(line.removeprefix(name)) for line in lines if line.startswith(name)), 0)

    dialog = [{"role": "user", "content": "Tell me a long story."}]
    asked = {"model": "smollm2", "stream": stream, "input" if "responses" in path else "messages": dialog, **body}
    before = written()
    assert server.post(path, asked).status_code == 200
    assert written() == before + 5


def test_the_openapi_document_is_valid_and_names_every_protocol(server: Running) -> None:
    import openapi_spec_validator

    document = server.get("/openapi.json").json()
    openapi_spec_validator.validate(document)
    assert {"/v1/chat/completions", "/v1/responses", "/api/chat", "/v1/messages", "/tokenize"} <= set(document["paths"])
