"""Llama Desk: its logic with Toga's dummy widgets, and its window in Qt without a screen."""

import asyncio
import json
import os
import subprocess
import sys
import threading
import tomllib
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from examples.mac_app.llama_desk.conversations import Conversation, ConversationStore, Message
from examples.mac_app.llama_desk.desk import Desk
from examples.mac_app.llama_desk.documents import (
    Document,
    DocumentError,
    best_passages,
    dropped_paths,
    passages,
    read_document,
)
from examples.mac_app.llama_desk.preferences import Preferences
from examples.mac_app.llama_desk.prompting import make_prompt
from examples.mac_app.llama_desk.view import State
from llama3_mlx import Llama

from ..support.small_chat import save_small_chat

ROOT = Path(__file__).parents[2]
APP = ROOT / "examples" / "mac_app"


class Seen:
    """A view that remembers what it was told."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.states: list[State] = []
        self.question = ""
        self.titles: list[str] = []

    def show_list(self, conversations: Sequence[Conversation], current: Conversation) -> None:
        self.titles = [each.title for each in conversations]

    def show_text(self, text: str) -> None:
        self.texts.append(text)

    def show_state(self, state: State) -> None:
        self.states.append(state)

    def set_question(self, text: str) -> None:
        self.question = text


def used(folder: Path, use: Callable[[Desk, Seen], Coroutine[object, object, None]]) -> Seen:
    """Run `use` with an application's logic, and close that; no thread may stay."""
    before = set(threading.enumerate())

    async def run() -> Seen:
        seen = Seen()
        desk = Desk(folder, seen)
        await desk.start()
        await use(desk, seen)
        await desk.close()
        return seen

    seen = asyncio.run(run())
    assert set(threading.enumerate()) <= before
    return seen


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LLAMA3_MLX_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "home"


def test_a_conversation_is_written_stopped_edited_and_kept(small_chat: Path, tmp_path: Path) -> None:
    async def use(desk: Desk, seen: Seen) -> None:
        await desk.ask("Hi")
        assert seen.question == "Hi"
        assert desk.state.status == "Choose a model first."
        await desk.choose_model(str(small_chat))
        desk.preferences = replace(desk.preferences, max_tokens=5)
        await desk.ask("Hi")
        assert [message.role for message in desk.current.messages] == ["user", "assistant"]
        desk.preferences = replace(desk.preferences, max_tokens=100_000)
        asking = asyncio.create_task(desk.ask("More"))
        while not (len(desk.current.messages) == 4 and desk.current.messages[3].text):
            await asyncio.sleep(0.001)
        assert desk.state.writing
        desk.stop()
        await asking
        assert not desk.state.writing
        assert desk.current.messages[3].note == "Stopped"
        desk.edit()
        assert seen.question == "More"
        assert len(desk.current.messages) == 2

    used(tmp_path, use)

    async def again(desk: Desk, seen: Seen) -> None:
        assert seen.titles == ["Hi"]
        assert desk.state.model == str(small_chat)
        desk.select(desk.conversations[0].id)
        assert desk.current.messages[2].text == "More"
        await desk.delete(desk.current.id)
        assert ConversationStore(tmp_path / "conversations").load() == []

    used(tmp_path, again)


def test_closing_while_an_answer_is_written_keeps_it(small_chat: Path, tmp_path: Path) -> None:
    async def use(desk: Desk, _: Seen) -> None:
        await desk.choose_model(str(small_chat))
        desk.preferences = replace(desk.preferences, max_tokens=100_000)
        asking = asyncio.create_task(desk.ask("Go on"))
        while not (desk.current.messages and desk.current.messages[-1].text):
            await asyncio.sleep(0.001)
        await desk.close()
        assert asking.done()

    used(tmp_path, use)
    (kept,) = ConversationStore(tmp_path / "conversations").load()
    assert kept.messages[1].text
    assert kept.messages[1].note in ("Stopped", "Not finished")


def test_what_goes_wrong_is_shown_with_what_helps(tmp_path: Path) -> None:
    async def use(desk: Desk, _: Seen) -> None:
        await desk.choose_model("no-such-model")
        assert desk.state.status.endswith(".")
        assert "no-such-model" in desk.state.details
        assert desk.state.progress is None
        await desk.attach(tmp_path / "picture.png")
        assert "isn't a document of a known kind" in desk.state.status

    used(tmp_path, use)


def test_a_dropped_document_is_asked_about(small_chat: Path, tmp_path: Path) -> None:
    notes = tmp_path / "my notes.md"
    notes.write_text("The tree was planted in 2011.")

    async def use(desk: Desk, seen: Seen) -> None:
        await desk.choose_model(str(small_chat))
        await desk.typed(f"When?\nfile://{str(notes).replace(' ', '%20')}")
        assert seen.question == "When?"
        assert desk.state.document == "my notes.md"
        desk.preferences = replace(desk.preferences, max_tokens=2)
        await desk.ask("When?")
        assert desk.host.llama is not None
        prompt = make_prompt(desk.host.llama, replace(desk.current, messages=desk.current.messages[:1]), "", 2)
        assert "planted in 2011" in desk.host.llama.tokenizer.decode(prompt.token_ids)

    used(tmp_path, use)


def test_what_does_not_fit_the_context_is_told(tmp_path: Path) -> None:
    folder = save_small_chat(tmp_path / "model", max_position_embeddings=1200)
    text = "\n\n".join(f"Paragraph {n} is about {'apples' if n == 7 else 'stones'}. {'x' * 200}" for n in range(30))
    with Llama.load(folder, disk_cache=False) as llama:
        asked = Conversation([Message("user", "What about apples?")], Document("long.txt", text))
        prompt = make_prompt(llama, replace(asked), "", 10)
        assert "long.txt is longer than the model's context: passages" in prompt.note
        many = [Message(role, "y" * 100) for _ in range(20) for role in ("user", "assistant")]
        prompt = make_prompt(llama, Conversation([*many, Message("user", "Last")]), "System", 100)
        assert "messages no longer fit" in prompt.note
        assert len(prompt.token_ids) <= 1100
        assert "Last" in llama.tokenizer.decode(prompt.token_ids)


def test_the_nearest_passages_are_found_in_the_order_of_the_text() -> None:
    text = "\n\n".join(f"{word} {'filler ' * 150}" for word in ("apples", "stones", "clouds", "apples"))
    numbers, parts = best_passages(text, "apples?", lambda chosen: len(chosen) < 2500)
    assert numbers == [1, 4]
    assert all("apples" in part for part in parts)
    assert max(map(len, passages("word. " * 2000))) <= 1200


def test_documents_that_cannot_be_read_say_why(tmp_path: Path) -> None:
    for name, content in (("a.txt", b"\xff\xfe"), ("b.pdf", b"no pdf"), ("c.txt", b" \n"), ("d.exe", b"")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DocumentError, match=name):
            read_document(tmp_path / name)
    with pytest.raises(DocumentError, match="can't be read"):
        read_document(tmp_path / "gone.txt")
    assert dropped_paths("/no/such/file.txt\nplain words") == []


def test_files_that_are_damaged_are_left_alone_and_named(tmp_path: Path) -> None:
    store = ConversationStore(tmp_path)
    conversation = Conversation([Message("user", "Hi")])
    store.save(conversation)
    (tmp_path / "bad.json").write_text('{"messages": [{"role": "robot", "text": ""}], "document": null}')
    assert store.load() == [conversation]
    assert store.unreadable == ["bad.json"]
    (tmp_path / "p.json").write_text('{"model": "m", "temperature": "hot", "max_tokens": true}')
    preferences, note = Preferences.load(tmp_path / "p.json")
    assert preferences == Preferences(model="m")
    assert "temperature, max_tokens" in note


def driven(folder: Path, backend: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "TOGA_BACKEND": backend,
        "TOGA_DUMMY_HOME": str(folder / "dummy"),
        "QT_QPA_PLATFORM": "offscreen",
        "XDG_DATA_HOME": str(folder / "data"),
    }
    return subprocess.run(
        [sys.executable, "-m", *arguments], env=environment, capture_output=True, text=True, check=False
    )


def test_fifty_turns_in_the_window_leave_the_loop_free_and_nothing_behind(small_chat: Path, tmp_path: Path) -> None:
    """In Qt's window without a screen; how long the loop ever waited is printed, since that is the machine's too."""
    result = driven(tmp_path, "toga_qt", "examples.mac_app.drive", str(small_chat), str(tmp_path), "50")
    assert result.returncode == 0, result.stderr
    measured = json.loads(result.stdout.splitlines()[-1])
    print(measured)
    assert measured["turns"] == 50
    assert measured["model_calls"] > 50
    assert measured["model_calls_on_loop"] == 0
    assert measured["memory_full"] > measured["memory_closed"] == measured["memory_loaded"]
    assert measured["threads_after_quit"] == ["MainThread"]
    with Image.open(tmp_path / "window.png") as picture:
        assert picture.width > 900
        assert len(picture.convert("RGB").getcolors(1 << 24) or []) > 20


def test_the_application_starts_on_the_dummy_backend(tmp_path: Path) -> None:
    code = "from examples.mac_app.llama_desk.app import LlamaDesk; app = LlamaDesk.make(); print(app.main_window.title)"
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "TOGA_BACKEND": "toga_dummy",
        "TOGA_DUMMY_HOME": str(tmp_path),
    }
    result = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert result.stdout == "Llama Desk\n", result.stderr


def test_the_bundle_is_made_as_mlx_needs_it() -> None:
    settings = tomllib.loads((APP / "pyproject.toml").read_text())["tool"]["briefcase"]["app"]["llama_desk"]
    assert settings["macOS"]["min_os_version"] == "14.0"
    assert settings["macOS"]["universal_build"] is False
    assert (APP / settings["sources"][0] / "__main__.py").exists()
    assert (APP / settings["requires"][0] / "pyproject.toml").resolve() == ROOT / "pyproject.toml"
