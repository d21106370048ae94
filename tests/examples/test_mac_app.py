"""Llama Desk: its logic with Toga's dummy widgets, and its window in Qt without a screen."""

import asyncio
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

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

from ..support.fake_hub import running_hub
from ..support.server_fixtures import save_adapter
from ..support.small_chat import save_small_chat
from .running import ROOT, check_picture, run_module, run_within, until


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
        try:
            await desk.start()
            await use(desk, seen)
        finally:
            await desk.close()
        return seen

    seen = run_within(120, run())
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
        await until(lambda: len(desk.current.messages) == 4 and bool(desk.current.messages[3].text))
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
        desk.preferences = replace(desk.preferences, max_tokens=100_000, temperature=0)
        asking = asyncio.create_task(desk.ask("Go on"))
        await until(lambda: bool(desk.current.messages and desk.current.messages[-1].text))
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


def test_fifty_turns_in_the_window_leave_the_loop_free_and_nothing_behind(small_chat: Path, tmp_path: Path) -> None:
    """In Qt's window without a screen. How long the loop was ever late is printed, since that is the machine's, too."""
    measured = run_module(tmp_path, "toga_qt", "examples.mac_app.drive", str(small_chat), str(tmp_path), "50")
    print(measured)
    assert measured["turns"] == 50
    assert measured["model_calls"] > 50
    assert measured["model_calls_on_loop"] == 0
    assert sum(measured["talking"]["late"]) > 100
    assert measured["talking"]["longest_for_model_ms"] < 50
    assert measured["memory_full"] > measured["memory_closed"] == measured["memory_loaded"]
    assert measured["threads_after_quit"] == ["MainThread"]
    check_picture(tmp_path / "window.png", 900)


@pytest.mark.parametrize("backend", ["toga_dummy", "toga_qt"])
def test_every_window_does_what_it_says(backend: str, small_chat: Path, tmp_path: Path, home: Path) -> None:
    """The lists of models and adapters, the preferences, and a download from a local Hub, left and made."""
    shutil.copytree(small_chat, home / "models" / "mine")
    config = json.loads((small_chat / "config.json").read_text())
    inputs = config["head_dim"] * config["num_attention_heads"]
    for name, size in (("warm", inputs), ("of another model", inputs + 8)):
        (home / "adapters" / name).mkdir(parents=True)
        layers = config["num_hidden_layers"]
        save_adapter(home / "adapters" / name, size, config["hidden_size"], layers=layers, size=1.0)
    slow = shutil.copytree(small_chat, tmp_path / "slow")
    (slow / "more.safetensors").write_bytes(bytes(10_000))
    with running_hub() as (hub, address):
        hub.repositories |= {"org/small": small_chat, "org/slow": slow}
        hub.stalled["more.safetensors"] = 1000
        network = {
            "HF_ENDPOINT": address,
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DOWNLOAD_TIMEOUT": "1",
        }
        seen = run_module(
            tmp_path, backend, "tests.examples.use_windows", str(tmp_path), HF_HOME=str(tmp_path / "hf"), **network
        )
    assert seen["offered"] == ["Choose a model", "mine"]
    assert seen["adapters"] == ["No adapter", "warm"]
    assert seen["answers"][0] == seen["answers"][2] != seen["answers"][1]
    assert seen["kept"] == ["Be brief.", 0.25, 77, False, ""]
    assert seen["shown again"] == "Be brief."
    assert seen["closed"]
    assert seen["unknown"] == "The download failed. Check the network and the model's name, then try again."
    assert re.fullmatch(r"0\.0 GB with 4,096 tokens of conversation; [\d,]+ tokens fit\.", seen["needs"])
    assert seen["on its way"].startswith("Downloading org/slow: 0.00 of 0.00 GB")
    assert seen["left"] == "org/slow wasn't loaded. What is downloaded stays for the next time."
    assert seen["model"] == ["org/small", "org/small", "Ready."]
    assert seen["titles"] == ["Download a model", "Preferences"]
    if backend == "toga_qt":
        for name, width in (("adapter", 900), ("preferences", 400), ("download", 500)):
            check_picture(tmp_path / f"{name}.png", width)


def test_the_application_starts_on_the_dummy_backend(tmp_path: Path) -> None:
    code = "from examples.mac_app.llama_desk.app import LlamaDesk; app = LlamaDesk.make(); print(app.main_window.title)"
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "TOGA_BACKEND": "toga_dummy",
        "TOGA_DUMMY_HOME": str(tmp_path),
    }
    result = subprocess.run(
        [sys.executable, "-c", code],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        timeout=120,
    )
    assert result.stdout == "Llama Desk\n", result.stderr
