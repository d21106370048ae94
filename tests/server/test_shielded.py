"""A server that scans the code of answers: notes and blocks in every protocol, whole and streamed."""

from pathlib import Path
from typing import Any

import anthropic
import ollama
import openai
import pytest

from llama3_mlx.errors import MissingExtraError, RequestError
from llama3_mlx.library.catalogue import Catalogue
from llama3_mlx.safety.shield.structural import StructuralEngine
from llama3_mlx.server.running import make_server
from llama3_mlx.server.settings import ServerSettings

from ..support.scripted_llama import scripted_server

CODE = "cursor.execute('DELETE FROM t WHERE id = ' + name)\n"
INSECURE = f"Do it so:\n\n```python\n{CODE}```\n\nThat's all."
CLEAN = "Do it so:\n\n```python\nprint(1)\n```\n\nThat's all."


def answers(url: str, messages: Any) -> list[str]:
    """Return the answer by each protocol, whole and streamed."""
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none") as ours:
        chat = ours.chat.completions
        texts = [chat.create(model="tiny", messages=messages).choices[0].message.content or ""]
        parts = list(chat.create(model="tiny", messages=messages, stream=True))
        texts.append("".join(part.choices[0].delta.content or "" for part in parts))
        texts.append(ours.responses.create(model="tiny", input=messages).output_text)
        with ours.responses.stream(model="tiny", input=messages) as events:
            texts.append(events.get_final_response().output_text)
    with anthropic.Anthropic(base_url=url, api_key="none") as theirs:
        asked: Any = {"model": "tiny", "messages": messages, "max_tokens": 999}
        texts += [block.text for block in theirs.messages.create(**asked).content if block.type == "text"]
        with theirs.messages.stream(**asked) as stream:
            texts.append("".join(stream.text_stream))
    with ollama.Client(host=url) as client:
        texts.append(client.chat("tiny", messages=messages).message.content or "")
        texts.append(
            "".join(part.message.content or "" for part in client.chat("tiny", messages=messages, stream=True))
        )
    return texts


@pytest.mark.parametrize("mode", ["annotate", "block"])
def test_insecure_code_is_annotated_or_left_out(monkeypatch: pytest.MonkeyPatch, tiny_folder: Path, mode: str) -> None:
    said = [INSECURE]
    with scripted_server(monkeypatch, {"tiny": tiny_folder}, lambda *_: said[0], shield=mode) as (server, _):
        found = answers(server.url, [{"role": "user", "content": "Hi"}])
        assert len(found) == 8
        [text] = set(found)
        assert "line 1: CWE-89" in text
        assert (CODE in text) == (mode == "annotate")
        assert text.startswith("Do it so:\n\n")
        assert text.endswith("\nThat's all.")
        said[0] = CLEAN
        assert set(answers(server.url, [{"role": "user", "content": "Hi"}])) == {CLEAN}
        metrics = server.get("/metrics").text
    assert 'shield_scans_total{status="insecure"} 8' in metrics
    assert 'shield_scans_total{status="clean"} 8' in metrics


def test_a_block_that_never_ends_is_sent_once_it_was_scanned(
    monkeypatch: pytest.MonkeyPatch, tiny_folder: Path
) -> None:
    with scripted_server(monkeypatch, {"tiny": tiny_folder}, lambda *_: "```c\nint x;", shield="block") as (server, _):
        body = {"model": "tiny", "messages": [{"role": "user", "content": "Hi"}], "stream": True}
        assert "int x;" in server.post("/v1/chat/completions", body).text


def test_an_answer_held_to_a_schema_stays_as_it_is(monkeypatch: pytest.MonkeyPatch, tiny_folder: Path) -> None:
    said = '{"code": "eval(x)"}'
    with scripted_server(monkeypatch, {"tiny": tiny_folder}, lambda *_: said, shield="block") as (server, _):
        body = {"model": "tiny", "messages": [{"role": "user", "content": "Hi"}], "format": "json", "stream": False}
        assert server.post("/api/chat", body).json()["message"]["content"] == said


def test_a_shield_that_fails_says_so_in_the_answer(monkeypatch: pytest.MonkeyPatch, tiny_folder: Path) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("out of order")

    # The process's engines stay as they are.
    monkeypatch.setattr("llama3_mlx.safety.shield.shield._structural", StructuralEngine)
    monkeypatch.setattr(StructuralEngine, "_parsed", fail)
    with scripted_server(monkeypatch, {"tiny": tiny_folder}, lambda *_: "```js\nx()\n```\n", shield="annotate") as (
        server,
        _,
    ):
        [choice] = server.post(
            "/v1/chat/completions", {"model": "tiny", "messages": [{"role": "user", "content": "Hi"}]}
        ).json()["choices"]
    assert "> Code shield: not checked (the engine for javascript " in choice["message"]["content"]


def test_a_missing_engine_and_a_wrong_mode_end_the_start(monkeypatch: pytest.MonkeyPatch, tiny_folder: Path) -> None:
    with pytest.raises(RequestError, match="shield must be one of annotate, block"):
        ServerSettings(shield="remove")
    find = __import__("importlib.util").util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *_: None if name == "bandit" else find(name, *_))
    with pytest.raises(MissingExtraError, match="the shield needs bandit"):
        make_server(ServerSettings(shield="block"), Catalogue({"tiny": tiny_folder}, {}, with_home=False))
