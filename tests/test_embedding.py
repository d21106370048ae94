"""The programs of docs/embedding.md, each run by itself as a file: event loops, processes, memory, errors."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from .test_docs import DOCS, ROOT, blocks

PROGRAMS = blocks(DOCS / "embedding.md", "python")
# What shows that a program is about one thing, and so what it is called here.
MARKS = {
    "needs": "Llama.estimate(",
    "download": "download(",
    "asyncio": "asyncio.run(",
    "toga": "import toga",
    "qt": "PySide6",
    "tk": "import tkinter",
    "processes": "import multiprocessing",
    "memory": "watch_memory(",
    "errors": "no-such-model",
}
ANSWER = "Good day"
DIALOGS = ("asyncio", "toga", "qt", "tk", "processes")


def screen() -> list[str]:
    """Return what a program is started with so that Tk has a screen; skips the test where there is none."""
    if os.environ.get("DISPLAY") or sys.platform == "darwin":
        return []
    if not shutil.which("xvfb-run"):
        pytest.skip("Tk needs a screen: Debian's xvfb")
    return ["xvfb-run", "--auto-servernum"]


def test_every_program_is_run() -> None:
    assert [sum(mark in program for mark in MARKS.values()) for program in PROGRAMS] == [1] * len(MARKS)


@pytest.mark.parametrize("name", MARKS)
def test_a_program_runs(name: str, small_chat: Path, tmp_path: Path) -> None:
    """With a small random model in the place of a Llama 3."""
    for module in {"toga": ["toga_qt"], "qt": ["PySide6"], "tk": ["tkinter"]}.get(name, []):
        pytest.importorskip(module)
    (tmp_path / "llama-3.2-3b-4bit").symlink_to(small_chat)
    program = next(each for each in PROGRAMS if MARKS[name] in each)
    # What the model would say is left to no chance.
    (tmp_path / "program.py").write_text(program.replace("temperature=0", f"choices=[{ANSWER!r}]"))
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "LLAMA3_MLX_HOME": str(tmp_path / "home"),
        "QT_QPA_PLATFORM": "offscreen",
        "TOGA_BACKEND": "toga_qt",
        "XDG_DATA_HOME": str(tmp_path / "data"),
    }
    command = [*(screen() if name == "tk" else []), sys.executable, "program.py"]
    result = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=240
    )
    assert result.returncode == 0, result.stderr
    if name in DIALOGS:
        assert result.stdout.strip() == ANSWER
