"""Runs modules with a backend of Toga, each in a process of its own, since there is one application in a process.

Everything here ends after some time, whatever the application does.
"""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

from PIL import Image

ROOT = Path(__file__).parents[2]
# How long a process may run; less than the time of a test, so that its own output shows where it stood.
PROCESS_S = 240
T = TypeVar("T")


async def until(true: Callable[[], bool]) -> None:
    """Wait, at most for a minute."""
    async with asyncio.timeout(60):
        while not true():
            await asyncio.sleep(0.002)


def run_within(seconds: float, work: Coroutine[object, object, T]) -> T:
    """Run a coroutine, which is cancelled after so many seconds."""
    return asyncio.run(asyncio.wait_for(work, seconds))


class Text:
    """A clipboard."""

    def __init__(self, text: str) -> None:
        self.text = text

    def read(self) -> str:
        return self.text

    def write(self, text: str) -> None:
        self.text = text


def run_module(folder: Path, backend: str, *arguments: str, **more: str) -> dict[str, Any]:
    """Run a module in a backend of Toga; return the JSON that it prints last.

    One that waits for ever ends with the stacks of its threads.
    """
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "TOGA_BACKEND": backend,
        "TOGA_DUMMY_HOME": str(folder / "dummy"),
        "QT_QPA_PLATFORM": "offscreen",
        "XDG_DATA_HOME": str(folder / "data"),
        **more,
    }
    command = [sys.executable, "-X", "faulthandler", "-m", *arguments]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            output, errors = process.communicate(timeout=PROCESS_S)
        except subprocess.TimeoutExpired:
            # It writes the stacks of all threads.
            process.send_signal(signal.SIGABRT)
            output, errors = process.communicate(timeout=20)
        finally:
            process.kill()
    assert process.returncode == 0, errors
    values: dict[str, Any] = json.loads(output.splitlines()[-1])
    return values


def check_picture(path: Path, width: int) -> None:
    with Image.open(path) as picture:
        assert picture.width > width
        assert len(picture.convert("RGB").getcolors(1 << 24) or []) > 20
