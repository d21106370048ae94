"""`chat` in a pseudo-terminal, as a person uses it: pasting, stopping, saving, resuming."""

import fcntl
import json
import os
import pty
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

PASTE_BEGIN, PASTE_END = b"\x1b[200~", b"\x1b[201~"  # xterm's bracketed paste: ctlseqs, "Bracketed Paste Mode"


class Terminal:
    """A chat in a terminal: what is typed goes in, what is seen comes out."""

    def __init__(self, descriptor: int, process: subprocess.Popen[bytes]) -> None:
        self._descriptor, self.process, self._seen = descriptor, process, ""
        os.set_blocking(descriptor, False)

    def type(self, data: bytes) -> None:
        os.write(self._descriptor, data)

    def wait_for(self, words: str, timeout_s: float = 60) -> None:
        """Read until the words have come; what comes behind them is for the next call."""
        end = time.monotonic() + timeout_s
        while words not in self._seen:
            assert time.monotonic() < end, self._seen
            try:
                self._seen += os.read(self._descriptor, 65536).decode(errors="replace")
            except BlockingIOError:
                time.sleep(0.02)
        self._seen = self._seen.partition(words)[2]

    def interrupt(self) -> None:
        self.process.send_signal(signal.SIGINT)

    def saved(self, path: Path) -> list[dict[str, Any]]:
        """Save the dialog and return its messages."""
        self.type(f"/save {path}\r".encode())
        self.wait_for("saved ")
        messages: list[dict[str, Any]] = json.loads(path.read_text())["messages"]
        return messages


@contextmanager
def chat(folder: Path, home: Path, *arguments: str) -> Iterator[Terminal]:
    """Run a chat until the block ends; there is a prompt when it begins."""
    ours, theirs = pty.openpty()
    # Wide enough for any path of a test: what is waited for stands in one line.
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 250, 0, 0))
    command = [sys.executable, "-m", "llama3_mlx", "chat", "-m", str(folder), "--temperature", "0", *arguments]
    process = subprocess.Popen(
        command,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
        env={**os.environ, "LLAMA3_MLX_HOME": str(home), "TERM": "xterm"},
    )
    terminal = Terminal(ours, process)
    try:
        terminal.wait_for(">>>")
        yield terminal
    finally:
        process.kill()
        process.wait()
        os.close(ours)
        os.close(theirs)


def users(messages: list[dict[str, Any]]) -> list[str]:
    return [message["content"] for message in messages if message["role"] == "user"]


def test_a_pasted_text_is_one_message_at_the_prompt_and_during_a_reply(tiny_folder: Path, tmp_path: Path) -> None:
    with chat(tiny_folder, tmp_path / "home", "--max-tokens", "60", "--ignore-eos") as terminal:
        terminal.type(PASTE_BEGIN + b"one\rtwo\r/three\r" + PASTE_END)
        terminal.wait_for("/three")
        terminal.type(b"\r")
        time.sleep(0.3)
        terminal.type(PASTE_BEGIN + b"four\rfive" + PASTE_END + b"\r")
        # The limit of tokens is told at the end of each reply.
        for _ in range(2):
            terminal.wait_for("(cut off after 60 tokens")
        terminal.wait_for(">>>")
        assert users(terminal.saved(tmp_path / "dialog.json")) == ["one\ntwo\n/three", "four\nfive"]


def test_a_block_between_triple_quotes_is_one_message(tiny_folder: Path, tmp_path: Path) -> None:
    with chat(tiny_folder, tmp_path / "home", "--max-tokens", "2") as terminal:
        terminal.type(b'"""one\r')
        terminal.wait_for("...")
        terminal.type(b'two"""\r')
        terminal.wait_for("(cut off")
        terminal.wait_for(">>>")
        terminal.type(b"three \\\r")
        terminal.wait_for("...")
        terminal.type(b"four\r")
        terminal.wait_for("(cut off")
        terminal.wait_for(">>>")
        assert users(terminal.saved(tmp_path / "dialog.json")) == ["one\ntwo", "three \nfour"]


def test_what_is_typed_in_no_utf8_does_not_keep_a_dialog_from_being_saved(tiny_folder: Path, tmp_path: Path) -> None:
    with chat(tiny_folder, tmp_path / "home", "--max-tokens", "2") as terminal:
        terminal.type(b"caf\xe9\r")
        terminal.wait_for("(cut off")
        terminal.wait_for(">>>")
        assert users(terminal.saved(tmp_path / "dialog.json")) == ["caf\ufffd"]


def test_ctrl_c_stops_the_reply_and_not_the_program(tiny_folder: Path, tmp_path: Path) -> None:
    with chat(tiny_folder, tmp_path / "home", "--ignore-eos") as terminal:
        terminal.type(b"Tell me everything\r")
        time.sleep(3)
        terminal.interrupt()
        terminal.wait_for("(stopped)")
        terminal.wait_for(">>>")
        terminal.type(b"\x03")
        terminal.wait_for("Ctrl-D or /exit leaves")
        terminal.wait_for(">>>")
        terminal.type(b"/stats\r")
        terminal.wait_for("answer: ")
        terminal.type(b"/exit\r")
        assert terminal.process.wait(timeout=60) == 0


def test_a_second_ctrl_c_leads_to_the_prompt_too(tiny_folder: Path, tmp_path: Path) -> None:
    with chat(tiny_folder, tmp_path / "home", "--max-tokens", "2") as terminal:
        terminal.type(b"first\r")
        terminal.wait_for("(cut off")
        terminal.wait_for(">>>")
    with chat(tiny_folder, tmp_path / "home", "--resume", "--ignore-eos") as terminal:
        terminal.type(b"second\r")
        terminal.wait_for("second")
        time.sleep(2)
        terminal.interrupt()
        terminal.interrupt()
        terminal.wait_for(">>>")
        # Whichever of the two the reply heard, the dialog from before is there.
        assert users(terminal.saved(tmp_path / "dialog.json"))[0] == "first"
        terminal.type(b"/exit\r")
        assert terminal.process.wait(timeout=60) == 0


def test_saving_over_a_file_asks_and_no_path_ends_the_dialog(tiny_folder: Path, tmp_path: Path) -> None:
    taken = tmp_path / "taken.txt"
    taken.write_text("mine")
    with chat(tiny_folder, tmp_path / "home", "--max-tokens", "2") as terminal:
        terminal.type(b"hello\r")
        terminal.wait_for("(cut off")
        terminal.wait_for(">>>")
        for answer, is_json in ((b"n", False), (b"y", True)):
            terminal.type(f"/save {taken}\r".encode())
            terminal.wait_for("[y/N]")
            terminal.type(answer + b"\r")
            terminal.wait_for("saved" if is_json else "is as it was")
            terminal.wait_for(">>>")
            assert taken.read_text().startswith("{") == is_json
        terminal.type(b"/save ~nosuchuser/x\r")
        terminal.wait_for("there is no home folder for ~nosuchuser")
        terminal.wait_for(">>>")
        assert users(terminal.saved(taken)) == ["hello"], "its own file it writes over without a question"


def test_the_next_session_has_the_history_and_resumes_the_dialog(tiny_folder: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    with chat(tiny_folder, home, "--max-tokens", "2") as terminal:
        terminal.type(b"hello there\r")
        terminal.wait_for("(cut off")
        terminal.wait_for(">>>")
        terminal.type(b"\x04")
        terminal.wait_for("resume this dialog with: llama3-mlx chat --resume")
        assert terminal.process.wait(timeout=60) == 0
    assert {path.stat().st_mode & 0o777 for path in (home / "chats", home / "chat_history")} == {0o700, 0o600}
    with chat(tiny_folder, home, "--max-tokens", "2", "--resume") as terminal:
        terminal.type(b"\x1b[A")
        terminal.wait_for("hello there")
        terminal.type(b"\r")
        terminal.wait_for("(cut off")
        terminal.wait_for(">>>")
        assert users(terminal.saved(tmp_path / "dialog.json")) == ["hello there", "hello there"]
    assert len(list((home / "chats").iterdir())) == 1, "the resumed dialog is kept in its own file"


@pytest.mark.parametrize("arguments", [["--resume"], ["--resume", "absent.json"]])
def test_there_is_nothing_to_resume(tiny_folder: Path, tmp_path: Path, arguments: list[str]) -> None:
    command = [sys.executable, "-m", "llama3_mlx", "chat", "-m", str(tiny_folder), *arguments]
    environment = {**os.environ, "LLAMA3_MLX_HOME": str(tmp_path / "home")}
    result = subprocess.run(command, input="", capture_output=True, text=True, env=environment, check=False)
    assert result.returncode == 2
    assert result.stderr.startswith("error: there is no dialog to resume" if len(arguments) == 1 else "error: absent")
    assert result.stderr.count("\n") == 1
