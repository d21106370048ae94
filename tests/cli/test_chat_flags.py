"""A dialog that is resumed is answered as before: by its adapter, with its settings; and it is the last one seen."""

import json
import os
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest

from llama3_mlx.cli.chat_files import AutoSave, SavedDialog, latest_dialog, load_dialog_file
from llama3_mlx.cli.chat_flags import restore_flags
from llama3_mlx.cli.chat_session import ChatSession
from llama3_mlx.errors import DialogError

from ..support.server_fixtures import save_adapter
from .test_cli import run

QUESTION = "Hello"


def users(path: Path) -> list[str]:
    return [message["content"] for message in load_dialog_file(path).messages if message["role"] == "user"]


def answers(path: Path) -> list[str]:
    return [message["content"] for message in load_dialog_file(path).messages if message["role"] == "assistant"]


def test_a_resumed_dialog_has_its_adapter_and_settings_again(tiny_folder: Path, tmp_path: Path) -> None:
    """The reference is one dialog of two turns; without the adapter the second answer is another one."""
    (tmp_path / "style").mkdir()
    save_adapter(tmp_path / "style", 128, 64, size=3.0)
    model = ["-m", str(tiny_folder)]
    flags = ["--adapter", str(tmp_path / "style"), "--max-tokens", "6", "--ignore-eos", "--repetition-penalty", "1.5"]
    whole, half, rest, plain = (tmp_path / f"{name}.json" for name in ("whole", "half", "rest", "plain"))
    lines = f"{QUESTION}\n/save {half}\n{QUESTION}\n/save {whole}\n"
    assert run("chat", *model, *flags, stdin=lines.encode()).returncode == 0
    resumed = run("chat", "--resume", str(half), stdin=f"{QUESTION}\n/save {rest}\n".encode())
    assert resumed.returncode == 0, resumed.stderr
    assert answers(rest) == answers(whole)
    assert f"with --adapter {tmp_path / 'style'}, " in resumed.stderr.decode()
    assert load_dialog_file(rest).flags == load_dialog_file(half).flags
    other = json.loads(half.read_text())
    del other["flags"]["adapter"]
    half.write_text(json.dumps(other))
    assert run("chat", "--resume", str(half), stdin=f"{QUESTION}\n/save {plain}\n".encode()).returncode == 0
    assert answers(plain) != answers(whole)


def test_what_the_command_line_says_wins_and_is_noted(tiny_folder: Path, tmp_path: Path) -> None:
    flags = {"temperature": 0.5, "seed": 3, "regex": "a+", "tool": ["t.py:f"], "adapter": "/its/adapter"}
    saved = SavedDialog(model="/another/model", flags=flags)
    given: dict[str, Any] = {"model": str(tiny_folder), "adapter": None, "temperature": 0.9, "seed": None}
    args = Namespace(**given, regex=None, schema='{"type": "string"}', grammar=None, tool=None, dtype=None)
    notes = restore_flags(args, saved)
    assert (args.model, args.temperature, args.seed) == (str(tiny_folder), 0.9, 3)
    assert (args.regex, args.tool, args.adapter) == (None, None, None)
    assert len(notes) == 5
    assert "--temperature was 0.5, and is 0.9 from here on" in notes
    assert any("--tool t.py:f" in note for note in notes)
    with pytest.raises(DialogError, match="doesn't know: tempurature"):
        restore_flags(args, SavedDialog(flags={"tempurature": 1}))


class Silent:
    """A model that is never asked."""

    folder = "silent"

    def stream_chat(self, *_: Any, **__: Any) -> Any:
        raise AssertionError

    run_tools = stream_chat


@pytest.mark.parametrize("leave", ["system", "reset"])
def test_what_is_resumed_is_the_dialog_that_was_last_on_the_screen(
    leave: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLAMA3_MLX_HOME", str(tmp_path))
    autosave = AutoSave()
    session = ChatSession(Silent(), "Be brief.", {}, (), autosave)
    turns = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]
    session.messages = [*session.messages, *turns]
    autosave.save(session.dialog())
    first = autosave.path
    os.utime(first, (1, 1))
    if leave == "system":
        session.set_system("Be polite.")
    else:
        session.reset()
    expected = "Be polite." if leave == "system" else "Be brief."
    assert load_dialog_file(latest_dialog()).messages == [{"role": "system", "content": expected}]
    assert users(first) == ["x"], "the dialog before is kept, in its own file"


def test_a_chat_that_says_nothing_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLAMA3_MLX_HOME", str(tmp_path))
    session = ChatSession(Silent(), None, {}, (), AutoSave())
    session.set_system("Be polite.")
    assert not list(tmp_path.rglob("*.json"))
