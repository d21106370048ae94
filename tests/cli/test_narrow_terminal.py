"""A terminal of 40 columns: words wrap and nothing is lost."""

import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest


def seen_in(columns: int, arguments: list[str], home: Path) -> tuple[int, str]:
    """Run a command in a terminal and return its exit code and what it wrote there."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
    environment |= {"TERM": "xterm", "LLAMA3_MLX_HOME": str(home)}
    command = [sys.executable, "-m", "llama3_mlx", *arguments]
    process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment)
    os.close(theirs)
    data = b""
    while True:
        try:
            block = os.read(ours, 65536)
        except OSError:  # Linux says so at a terminal's end.
            break
        if not block:
            break
        data += block
    os.close(ours)
    return process.wait(60), data.decode().replace("\r", "")


@pytest.mark.parametrize("arguments", [["info", "small"], ["models"], ["generate", "--help"], ["chat", "--help"]])
def test_what_is_written_fits_but_for_single_words(arguments: list[str], small_chat: Path, tmp_path: Path) -> None:
    """The words are those of a wide terminal."""
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "small").symlink_to(small_chat)
    code, narrow = seen_in(40, arguments, tmp_path)
    assert code == 0
    wide = seen_in(250, arguments, tmp_path)[1]
    assert "".join(narrow.split()) == "".join(wide.split())
    # A table stays one, and flags that exclude each other are one word to argparse.
    if arguments[0] in ("info", "models"):
        long = [line for line in narrow.splitlines() if len(line) > 40 and len(line.split()) > 1]
        assert [line for line in long if arguments == ["info", "small"]] == []
