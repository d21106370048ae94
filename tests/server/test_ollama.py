"""Ollama's own client, unmodified, against a real server on loopback."""

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import ollama
import pytest

from llama3_mlx import Llama

from ..support.server_fixtures import Running, running_server

QUESTION: list[Any] = [{"role": "user", "content": "What is the capital of France?"}]
GREEDY: dict[str, Any] = {"temperature": 0, "num_predict": 5}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A home folder of this package for models that requests make."""
    folder = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LLAMA3_MLX_HOME", str(folder))
        yield folder


@pytest.fixture(scope="module")
def server(smollm2_folder: Path, home: Path) -> Iterator[Running]:
    with running_server({"smollm2": smollm2_folder}, with_home=True) as running:
        yield running


@pytest.fixture(scope="module")
def client(server: Running) -> Iterator[ollama.Client]:
    with ollama.Client(host=server.url) as made:
        yield made


@pytest.fixture(scope="module")
def expected(smollm2_folder: Path) -> str:
    """What the same model says when it is called without a server."""
    return Llama.load(smollm2_folder).chat(QUESTION, max_tokens=5, temperature=0).text


def test_chat_and_generate_give_the_models_text_with_counts_and_times(client: ollama.Client, expected: str) -> None:
    chat = client.chat("smollm2", QUESTION, options=GREEDY)
    generated = client.generate("smollm2", QUESTION[0]["content"], options=GREEDY)
    assert chat.message.content == generated.response == expected
    assert chat.message.role == "assistant"
    for reply in (chat, generated):
        assert (reply.done, reply.done_reason, reply.eval_count) == (True, "length", 5)
        assert reply.prompt_eval_count is not None
        assert reply.total_duration is not None
        assert reply.total_duration > (reply.eval_duration or 0) > 0
        assert datetime.fromisoformat(reply.created_at or "").tzinfo is not None


def test_streams_end_with_the_one_line_that_is_done(client: ollama.Client, expected: str) -> None:
    lines = list(client.chat("smollm2", QUESTION, options=GREEDY, stream=True))
    assert "".join(line.message.content or "" for line in lines) == expected
    assert [line.done for line in lines] == [False] * (len(lines) - 1) + [True]
    pieces = list(client.generate("smollm2", QUESTION[0]["content"], options=GREEDY, stream=True))
    assert "".join(piece.response or "" for piece in pieces) == expected


def test_a_body_without_content_type_streams_by_default(server: Running) -> None:
    import httpx

    body = b'{"model": "smollm2:latest", "prompt": "Hi", "options": {"num_predict": 2}}'
    reply = httpx.post(f"{server.url}/api/generate", content=body, timeout=60)
    assert reply.status_code == 200
    assert reply.headers["content-type"] == "application/x-ndjson"
    assert len(reply.text.strip().splitlines()) >= 2


def test_raw_continues_the_text_itself(client: ollama.Client) -> None:
    reply = client.generate("smollm2", "1, 2, 3, 4,", raw=True, options={**GREEDY, "num_predict": 6})
    assert reply.response == " 5, 6,"
    assert reply.prompt_eval_count is not None
    assert reply.prompt_eval_count < 16
    assert reply.context is None


def test_an_answer_may_be_asked_to_be_longer_than_the_context_leaves(client: ollama.Client) -> None:
    """Ollama ends it there; only what OpenAI's clients ask for has to fit."""
    options = {"num_predict": 10**6, "temperature": 0.0, "top_k": 40.0, "stop": ["France", ""]}
    reply = client.generate("smollm2", QUESTION[0]["content"], options=options)
    assert reply.response == "The capital of "
    assert reply.done_reason == "stop"


def test_a_context_goes_on_from_the_turn_before(client: ollama.Client) -> None:
    first = client.generate("smollm2", "My name is Ada.", options=GREEDY)
    second = client.generate("smollm2", "What is my name?", context=first.context, options=GREEDY)
    alone = client.generate("smollm2", "What is my name?", options=GREEDY)
    assert first.context is not None
    assert second.context is not None
    assert alone.prompt_eval_count is not None
    assert second.context[: len(first.context)] == first.context
    assert second.prompt_eval_count == len(first.context) + alone.prompt_eval_count


def test_an_empty_prompt_loads_and_keep_alive_zero_unloads(client: ollama.Client) -> None:
    assert client.generate("smollm2", "").done_reason == "load"
    running = client.ps().models
    assert [model.model for model in running] == ["smollm2:latest"]
    assert running[0].context_length == 8192
    assert client.chat("smollm2", [], keep_alive=0).done_reason == "unload"
    assert client.ps().models == []


def test_tags_and_show_describe_the_model(client: ollama.Client) -> None:
    [listed] = client.list().models
    assert listed.model == "smollm2:latest"
    assert listed.details is not None
    assert listed.details.parameter_size == "134.5M"
    shown = client.show("smollm2")
    assert shown.modelinfo is not None
    assert shown.modelinfo["llama.context_length"] == 8192
    assert shown.modelinfo["general.parameter_count"] == 134515008
    assert shown.capabilities is not None
    assert "completion" in shown.capabilities


def test_a_model_is_copied_quantized_used_and_deleted(client: ollama.Client, server: Running, home: Path) -> None:
    statuses = [line.status for line in client.create("small", from_="smollm2", quantize="q8_0", stream=True)]
    assert statuses[-1] == "success"
    assert (home / "models" / "small" / "config.json").exists()
    assert client.generate("small", "Hi", options=GREEDY).eval_count == 5
    client.copy("small", "other")
    assert {model.model for model in client.list().models} == {"smollm2:latest", "small:latest", "other:latest"}
    client.delete("small")
    client.delete("other")
    assert [model.model for model in client.list().models] == ["smollm2:latest"]


@pytest.mark.parametrize(
    ("path", "body", "status", "words"),
    [
        ("/api/chat", {"model": "nope", "messages": QUESTION}, 404, "no model 'nope'"),
        ("/api/generate", {"model": "smollm2", "prompt": 5}, 400, "prompt"),
        ("/api/generate", {"model": "smollm2", "prompt": "x", "images": ["aGk="]}, 400, "images"),
        ("/api/generate", {"model": "smollm2", "prompt": "x", "format": "xml"}, 400, "format"),
        ("/api/generate", {"model": "smollm2", "prompt": "x", "think": True}, 400, "thinking"),
        ("/api/generate", {"model": "smollm2", "prompt": "x", "raw": True, "system": "y"}, 400, "system"),
        ("/api/generate", {"model": "smollm2", "prompt": "x", "raw": True, "context": [1]}, 400, "context"),
        ("/api/embed", {"model": "smollm2", "input": "x " * 9000}, 400, "context is 8192"),
        ("/api/generate", {"model": "smollm2", "prompt": "x", "keep_alive": "5 parsecs"}, 400, "duration"),
        ("/api/show", {"model": "../../etc"}, 404, "no model"),
        ("/api/create", {"model": "x", "from": "/etc"}, 404, "not read"),
        ("/api/create", {"model": "../x", "from": "smollm2"}, 400, "name"),
        ("/api/copy", {"source": "smollm2", "destination": "a/b/c"}, 400, "name"),
    ],
)
def test_what_is_wrong_is_refused_in_ollamas_shape(
    server: Running, path: str, body: dict[str, Any], status: int, words: str
) -> None:
    reply = server.post(path, body)
    assert reply.status_code == status, reply.text
    assert set(reply.json()) == {"error"}
    assert words in reply.json()["error"]


def test_a_folder_of_the_users_own_is_not_deleted(client: ollama.Client, smollm2_folder: Path) -> None:
    with pytest.raises(ollama.ResponseError, match="isn't ours to delete"):
        client.delete("smollm2")
    assert (smollm2_folder / "config.json").exists()
