"""What other programs ask a server before they use it: versions, lists of models, tokens, defaults."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anthropic
import ollama
import openai
import pytest
from transformers import AutoTokenizer

from llama3_mlx import Llama
from llama3_mlx.library.catalogue import UnknownModelError
from llama3_mlx.server.settings import ServerSettings

from ..support.server_fixtures import Running, running_server

TALK: list[Any] = [{"role": "user", "content": "Hi"}]
# Codex as installed (codex-rs/ollama) refuses older servers: https://github.com/openai/codex/pull/8227.
CODEX_NEEDS = (0, 13, 4)


@pytest.fixture(scope="module")
def server(tiny_folder: Path) -> Iterator[Running]:
    with running_server({"tiny": tiny_folder}) as running:
        yield running


def test_ollamas_version_is_new_enough_for_clients_that_check_it(server: Running) -> None:
    version = server.get("/api/version").json()["version"]
    assert re.fullmatch(r"\d+\.\d+\.\d+", version)
    assert tuple(map(int, version.split("."))) >= CODEX_NEEDS


def test_a_chat_model_is_no_model_for_embeddings(server: Running) -> None:
    with ollama.Client(host=server.url) as client:
        shown = client.show("tiny")
    assert shown.capabilities is not None
    assert "completion" in shown.capabilities
    assert "embedding" not in shown.capabilities


def test_models_are_listed_with_their_context_in_the_clients_own_shape(server: Running) -> None:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none") as client:
        [model] = client.models.list().data
    assert model.model_extra == {"max_model_len": 131072, "context_length": 131072}
    with anthropic.Anthropic(base_url=server.url, api_key="none") as other:
        [listed] = other.models.list().data
        assert other.models.retrieve("tiny") == listed
    assert (listed.type, listed.id, listed.max_input_tokens) == ("model", "tiny", 131072)
    assert listed.created_at.year >= 2020


def test_tokens_come_as_llama_cpps_clients_ask_for_them(server: Running, llama3_folder: Path) -> None:
    """Source of the ids: transformers, on the same files."""
    reference = AutoTokenizer.from_pretrained(llama3_folder)

    def tokens(**body: Any) -> Any:
        return server.post("/tokenize", body).json()["tokens"]

    plain = reference.encode("hi there", add_special_tokens=False)
    assert tokens(content="hi there", add_special=False) == plain
    assert tokens(content="hi there", add_special=True) == [reference.bos_token_id, *plain]
    pieces = tokens(content="hi there", add_special=False, with_pieces=True)
    assert pieces == [{"id": token, "piece": reference.decode([token])} for token in plain]
    turn = "<|eot_id|>hi"
    assert tokens(content=turn, add_special=False, parse_special=True) == reference.encode(
        turn, add_special_tokens=False
    )
    assert len(tokens(content=turn, add_special=False)) > 3


def test_a_default_model_answers_for_names_that_are_not_there(tiny_folder: Path) -> None:
    models = {"tiny": tiny_folder, "second": tiny_folder}
    asked = {"messages": TALK, "max_tokens": 1}
    with running_server(models, default_model="second") as server:
        for name, answers in (("gpt-4o-mini", "second"), (None, "second"), ("tiny", "tiny")):
            assert server.post("/v1/chat/completions", {**asked, "model": name}).json()["model"] == answers
    with pytest.raises(UnknownModelError, match="nowhere"), running_server(models, default_model="nowhere"):
        pass


def test_a_draft_model_drafts_for_the_model_that_it_is_given_for(tiny_folder: Path) -> None:
    """What is drafted by the model itself is accepted, and the text stays the model's own."""
    asked = {"prompt": "a", "max_tokens": 12, "temperature": 0}
    with Llama.load(tiny_folder) as llama:
        expected = llama.generate("a", max_tokens=12, temperature=0).text
    with running_server({"tiny": tiny_folder}, draft=(f"tiny={tiny_folder}",)) as server:
        assert server.post("/v1/completions", asked).json()["choices"][0]["text"] == expected
        llama = server.app.state.server.models.slots["tiny"].loaded.llama
        # It costs as much as the model.
        assert llama.engine.speculators.greedy_costs.draft == 1


def test_a_model_over_nodes_fits_the_memory_with_its_draft(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What nodes are held by counts as all memory: the draft is part of it, not beyond it."""
    load = Llama.load

    def on_one(*arguments: Any, nodes: int, **settings: Any) -> Llama:
        assert nodes == 2
        return load(*arguments, **settings)

    monkeypatch.setattr(Llama, "load", on_one)
    monkeypatch.setattr(ServerSettings, "n_nodes", 2)
    with running_server({"tiny": tiny_folder}, draft=(f"tiny={tiny_folder}",)) as server:
        assert server.post("/v1/completions", {"prompt": "a", "max_tokens": 1}).status_code == 200


def test_a_stream_tells_how_much_of_a_long_prompt_has_been_run(server: Running) -> None:
    """In the shape of llama.cpp's server (tools/server/README.md, return_progress)."""
    long: list[Any] = [{"role": "user", "content": "word " * 3000}]
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none") as client:
        chunks = list(
            client.chat.completions.create(
                model="tiny",
                messages=long,
                max_tokens=4,
                stream=True,
                stream_options={"include_usage": True},
                extra_body={"return_progress": True, "ignore_eos": True},
            )
        )
    told: list[Any] = [(chunk.model_extra or {}).get("prompt_progress") for chunk in chunks]
    steps = [step for step in told if step]
    assert len(steps) > 1
    assert [step["processed"] for step in steps] == sorted(step["processed"] for step in steps)
    assert steps[-1]["processed"] <= steps[-1]["total"]
    assert steps[-1]["total"] > 3000
    count, timings = chunks[-1].usage, (chunks[-1].model_extra or {})["timings"]
    assert count is not None
    assert timings["prompt_n"] + timings["cache_n"] == count.prompt_tokens
    assert timings["predicted_n"] == count.completion_tokens == 4
    assert timings["predicted_per_second"] * timings["predicted_ms"] == pytest.approx(3000, rel=0.01)
