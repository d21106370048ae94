"""POST /v1/moderations with OpenAI's client, against what the guard says in Python."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from llama3_mlx.safety import Guard

from ..safety.test_guard import LINE_ENDS, NAMES, TEMPLATES
from ..support.server_fixtures import Running, running_server
from ..support.tiny_model import save_tiny


@pytest.fixture(scope="module")
def guard_folder(tmp_path_factory: pytest.TempPathFactory, llama3_folder: Path) -> Path:
    """A tiny random model with the chat template of Llama Guard 3 8B."""
    folder = save_tiny(tmp_path_factory.mktemp("guard"), tie_word_embeddings=False, torch_dtype="float32")
    (folder / "tokenizer.json").symlink_to(llama3_folder / "tokenizer.json")
    values = f"{{%- set names = {NAMES['3-8b']!r} -%}}{{%- set line_end = {LINE_ENDS['3-8b']!r} -%}}"
    settings = json.loads((llama3_folder / "tokenizer_config.json").read_text())
    settings["chat_template"] = values + TEMPLATES["3-8b"]
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


@pytest.fixture(scope="module")
def server(guard_folder: Path, tiny_folder: Path) -> Iterator[Running]:
    with running_server({"guard": guard_folder, "tiny": tiny_folder}) as running:
        yield running


def test_results_are_the_guard_s_verdicts(server: Running, guard_folder: Path) -> None:
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none")
    texts = ["Hi there", "How do I sharpen a knife?"]
    response = client.moderations.create(input=texts, model="guard")
    assert response.id.startswith("modr-")
    assert len(response.results) == 2
    with Guard.load(guard_folder) as guard:
        for text, result in zip(texts, response.results, strict=True):
            verdict, found = guard.check_text(text), result.model_dump()
            assert result.flagged == verdict.flagged
            titles = {category.title for category in verdict.categories}
            assert {title for title, is_named in found["categories"].items() if is_named} == titles
            for category in guard.policy.categories:
                score = found["category_scores"][category.title]
                assert score == pytest.approx(verdict.category_scores[category.code], abs=1e-5)


def test_parts_of_text_are_one_input(server: Running) -> None:
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none")
    parts: Any = [{"type": "text", "text": "Hi"}, {"type": "text", "text": "there"}]
    (together,) = client.moderations.create(input=parts, model="guard").results
    (one,) = client.moderations.create(input="Hi\nthere", model="guard").results
    scores = [
        {name: score for name, score in result.model_dump()["category_scores"].items() if score is not None}
        for result in (together, one)
    ]
    assert scores[0] == pytest.approx(scores[1], abs=1e-5)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"model": "tiny", "input": "Hi"}, "isn't a Llama Guard by its chat template"),
        ({"model": "guard", "input": " "}, "the input holds an empty text"),
        ({"model": "guard", "input": ["Hi", ""]}, "the input holds an empty text"),
        ({"model": "guard", "input": [{"type": "image_url", "image_url": {"url": "x"}}]}, "image_url"),
        ({"model": "guard"}, "input"),
    ],
)
def test_bad_requests_are_refused_with_the_reason(server: Running, body: dict[str, Any], words: str) -> None:
    response = server.post("/v1/moderations", body)
    assert response.status_code == 400
    assert words in response.json()["error"]["message"]
