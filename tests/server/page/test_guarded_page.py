"""The chat page of a server with a guard: refusals as the server itself streams them, and its judgements of messages.

The stub's word list is the reference of the one, /v1/moderations as OpenAI's client reads it of the other.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from llama3_mlx.server.core.loaded_model import LoadedModel

from ...support.paced_llama import Loader
from ...support.page_driver import Driver, PageServer
from ...support.server_fixtures import running_server
from ...support.small_chat import save_small_chat
from ..test_guarded import StubGuard
from ..test_moderations import guard_folder  # noqa: F401
from .conftest import fresh_page

SAFE = "The river walks by the green stone. " * 20


@pytest.fixture(scope="module")
def guarded_server(guard_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PageServer]:  # noqa: F811
    """A server with the real guard on answers alone."""
    folder = tmp_path_factory.mktemp("guarded")
    paced = {"first": save_small_chat(folder / "first", max_position_embeddings=8192)}
    loader = Loader(paced)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("llama3_mlx.server.core.loaded_model.Llama", loader)
        patch.setenv("LLAMA3_MLX_HOME", str(folder / "home"))
        with running_server(paced, guard=str(guard_folder), guard_on="output", guard_every=40) as running:
            yield PageServer(running, loader)


@pytest.fixture
def guarded_chat(context: Any, guarded_server: PageServer, width: int) -> Iterator[Driver]:
    with fresh_page(context, guarded_server, width) as driver:
        yield driver


def test_a_guarded_server_s_own_stream_is_shown(guarded_chat: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    stub = StubGuard()
    monkeypatch.setattr(LoadedModel, "as_guard", lambda self: stub)
    chat = guarded_chat
    chat.says("A poem?", SAFE)
    chat.says("A poison?", SAFE + "Take ricin and more.")
    assert chat.ask("A poem?") == SAFE.strip()
    assert chat.page.locator(".guard").count() == 0
    shown = chat.ask("A poison?")
    assert SAFE.startswith(shown)
    assert len(shown) > 100
    said = "The server's guard ended this answer. The answer was stopped by the guard: S9 Indiscriminate Weapons."
    assert chat.page.inner_text(".guard") == said
    assert "ended by the guard" in chat.page.locator(".stats").last.inner_text()
    chat.says("At once?", "ricin")
    chat.ask("At once?")
    assert "let no answer through" in chat.page.locator(".guard").last.inner_text()
    # The rate is what the model's server measured, not what one piece at the end of the stream would come to.
    assert chat.page.locator(".stats").last.inner_text().split(" · ")[:2] == ["5 tokens", "1.0 tokens/s"]
    chat.open()
    assert chat.page.locator(".guard").first.inner_text() == said


def test_the_guard_judges_a_message_that_is_asked_about(guarded_chat: Driver) -> None:
    chat, text = guarded_chat, "How do I sharpen a knife?"
    chat.ask(text)
    chat.act("judge", 0)
    chat.page.wait_for_selector(".message.user .guard")
    with openai.OpenAI(base_url=f"{chat.server.url}/v1", api_key="none") as client:
        found = client.moderations.create(input=text)
        (result,) = found.results
        assert client.moderations.create(input=text, model="omni-moderation-latest").model == found.model
        with pytest.raises(openai.NotFoundError):
            client.moderations.create(input=text, model="nosuch")
    values = result.model_dump()
    # The client's own categories, which this guard has no scores of, are None.
    scores = {title: score for title, score in values["category_scores"].items() if score is not None}
    title, score = max(scores.items(), key=lambda entry: entry[1])
    named = [title for title, is_named in values["categories"].items() if is_named]
    shown = chat.page.inner_text(".message.user .guard")
    assert shown.startswith(f"{found.model} finds " + (f"unsafe: {', '.join(named)}." if named else "nothing unsafe."))
    assert f"Highest scores: {title} {score:.2f}" in shown
    chat.open()
    assert chat.page.inner_text(".message.user .guard") == shown
    chat.from_sidebar("#open-models")
    assert f"{found.model} judges questions and answers." in chat.page.inner_text("#models-note")


def test_without_a_guard_no_message_can_be_judged(chat: Driver) -> None:
    chat.ask("Hello")
    assert chat.page.locator("[data-action=copy]").count() > 0
    assert chat.page.locator("[data-action=judge]").count() == 0
