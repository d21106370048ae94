"""Llama Bar: its logic with a clipboard of the test's, and its menu with Toga's dummy widgets."""

import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from examples.menu_bar.llama_bar.assistant import PROMPTS, Assistant, Prompt
from llama3_mlx import Llama

ROOT = Path(__file__).parents[2]


class Text:
    """A clipboard."""

    def __init__(self, text: str) -> None:
        self.text = text

    def read(self) -> str:
        return self.text

    def write(self, text: str) -> None:
        self.text = text


def told_of(model: Path, clipboard: Text, act: Callable[[Assistant], object] | None = None) -> list[str]:
    """Ask once about the clipboard, with `act` once writing has begun, and close; no thread may stay."""
    before, told = set(threading.enumerate()), list[str]()

    async def run() -> None:
        assistant = Assistant(str(model), clipboard, told.append)
        asking = asyncio.create_task(assistant.answer(Prompt("Repeat", "Say this again.")))
        while act is not None and "Repeat…" not in told:
            await asyncio.sleep(0.001)
        if act is not None:
            act(assistant)
        await asking
        await assistant.close()

    asyncio.run(run())
    assert set(threading.enumerate()) <= before
    return told


def test_the_answer_replaces_what_was_copied(small_chat: Path) -> None:
    clipboard = Text("Hello")
    with Llama.load(small_chat, disk_cache=False) as llama:
        assert llama.encode_chat([{"role": "user", "content": "Say this again.\n\nHello"}])
    assert told_of(small_chat, clipboard) == ["Loading…", "Repeat…", "Repeat: ready to paste"]
    assert clipboard.text != "Hello"


def test_a_stopped_answer_leaves_the_clipboard(small_chat: Path) -> None:
    clipboard = Text("Hello")
    told = told_of(small_chat, clipboard, lambda assistant: assistant.stop())
    assert told[-1] == "Stopped: the clipboard is as it was"
    assert clipboard.text == "Hello"


def test_nothing_to_ask_about_and_no_model_are_told(tmp_path: Path, small_chat: Path) -> None:
    assert told_of(small_chat, Text(" \n")) == ["Copy a text first"]
    *_, last = told_of(tmp_path / "none", Text("Hello"))
    assert last.endswith(".")


def test_the_menu_offers_every_prompt(tmp_path: Path) -> None:
    code = (
        "from examples.menu_bar.llama_bar.app import LlamaBar; bar = LlamaBar.make('model'); "
        "print([c.text for c in bar.status_icons.commands if getattr(c, 'text', '') and c.group is bar.menu])"
    )
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "TOGA_BACKEND": "toga_dummy",
        "TOGA_DUMMY_HOME": str(tmp_path),
    }
    result = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == str([*(prompt.name for prompt in PROMPTS), "Stop"])
