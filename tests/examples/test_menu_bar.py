"""Llama Bar: its logic with a clipboard of the test's, and its menu with Toga's dummy widgets."""

import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from examples.menu_bar.llama_bar.assistant import PROMPTS, Assistant, Prompt
from llama3_mlx import Llama

from .running import ROOT, Text, check_picture, run_module, run_within, until


def told_of(model: Path | str, clipboard: Text, act: Callable[[Assistant], object] | None = None) -> list[str]:
    """Ask once about the clipboard, with `act` once writing has begun, and close; no thread may stay."""
    before, told = set(threading.enumerate()), list[str]()

    async def run() -> None:
        assistant = Assistant(str(model), clipboard, told.append)
        asking = asyncio.create_task(assistant.answer(Prompt("Repeat", "Say this again.")))
        try:
            if act is not None:
                await until(lambda: "Repeat…" in told)
                act(assistant)
            await asking
        finally:
            await assistant.close()

    run_within(120, run())
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


def test_without_a_name_the_first_model_here_is_taken(
    tmp_path: Path, small_chat: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLAMA3_MLX_HOME", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    assert told_of("", Text("Hello")) == ["There is no model yet: llama3-mlx pull NAME"]
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "mine").symlink_to(small_chat)
    assert told_of("", Text("Hello"))[-1] == "Repeat: ready to paste"


def test_a_bundle_starts_it_without_a_model(tmp_path: Path) -> None:
    """Toga's dummy has no loop: the program ends once it has started."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TOGA_BACKEND": "toga_dummy"}
    environment["TOGA_DUMMY_HOME"] = str(tmp_path)
    command = [sys.executable, "-m", "llama_bar"]
    place = ROOT / "examples" / "menu_bar"
    done = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


class Broken(Text):
    def read(self) -> str:
        raise FileNotFoundError("pbpaste")


def test_a_clipboard_that_fails_is_told(small_chat: Path) -> None:
    assert told_of(small_chat, Broken("")) == ["The clipboard can't be used: pbpaste"]


@pytest.mark.parametrize("backend", ["toga_dummy", "toga_qt"])
def test_the_menu_offers_every_prompt_and_shows_what_goes_on(backend: str, small_chat: Path, tmp_path: Path) -> None:
    arguments = ("tests.examples.use_menu", str(small_chat), str(tmp_path / "menu.png"))
    seen = run_module(tmp_path, backend, *arguments)
    offered = [prompt.name for prompt in PROMPTS]
    assert seen["before"] == [*offered, "Copy a text, then choose", "Stop"]
    assert seen["writing"] == [*offered, "Correct…", "Stop"]
    assert seen["after"] == [*offered, "Correct: ready to paste", "Stop"]
    assert seen["stop"] == [False, True, False]
    if backend == "toga_qt":
        check_picture(tmp_path / "menu.png", 100)
