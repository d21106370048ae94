"""Conversions that are killed: real processes and SIGKILL, at random moments."""

import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from llama3_mlx.convert import convert

from ..support.tiny_model import save_tiny

SMALL: dict[str, Any] = {"vocab_size": 512, "num_hidden_layers": 6, "eos_token_id": [1], "bos_token_id": 0}
# Prints a line for every step of a conversion that flushes every tensor; waits at the line where it is to be killed.
CHILD = """
import os, sys, time
from llama3_mlx.convert.targets import writer
from llama3_mlx.convert import pipeline
from llama3_mlx.convert import convert

source, dest, stop_at = sys.argv[1], sys.argv[2], int(sys.argv[3])
writer.FLUSH_BYTES = 1
seen = 0

def step():
    global seen
    seen += 1
    if seen == stop_at:
        print("here", flush=True)
        time.sleep(600)

def counted(function):
    def wrapped(*arguments, **options):
        step()
        return function(*arguments, **options)
    return wrapped

# Every system call that changes a file counts as a step, those of the last renames as well.
for name in ("pwrite", "fsync", "ftruncate", "rename", "replace", "unlink", "rmdir"):
    setattr(os, name, counted(getattr(os, name)))
report = convert(source, dest, bits=4, force=True, verify=False)
print(f"done {report.resumed_modules} {seen}", flush=True)
"""


def start(source: Path, dest: Path, stop_at: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", CHILD, str(source), str(dest), str(stop_at)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def run(source: Path, dest: Path, stop_at: int = 0) -> tuple[int, int] | None:
    """Run to the end and return resumed modules and steps; None if it was killed at the step."""
    with start(source, dest, stop_at) as process:
        assert process.stdout is not None
        words = process.stdout.readline().split()
        if words == ["here"]:
            process.send_signal(signal.SIGKILL)
            process.wait()
            assert process.returncode == -signal.SIGKILL
            return None
    assert words[:1] == ["done"]
    return int(words[1]), int(words[2])


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("replaces", [False, True])
def test_a_run_killed_at_any_moment_goes_on_and_ends_the_same(tmp_path: Path, replaces: bool) -> None:
    source = save_tiny(tmp_path / "source", **SMALL)
    whole, dest = tmp_path / "whole", tmp_path / "out"
    finished = run(source, whole)
    assert finished is not None
    _, steps = finished
    expected = content(whole)
    rng = random.Random(7 + replaces)
    most_resumed = 0
    # Early, late and between; each stretch of steps is hit once.
    for n in range(4):
        if replaces and not dest.exists():
            convert(source, dest, bits=8)
        old = content(dest) if dest.exists() else None
        assert run(source, dest, rng.randint(1 + steps * n // 4, steps * (n + 1) // 4)) is None
        if dest.exists():
            # What stands there is the old result or the new one, whole.
            assert content(dest) in (old, expected)
        resumed = run(source, dest)
        assert resumed is not None
        most_resumed = max(most_resumed, resumed[0])
        assert content(dest) == expected
        assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "source", "whole"]
        if not replaces:
            for path in dest.iterdir():
                path.unlink()
            dest.rmdir()
    assert most_resumed > 30


def test_several_kills_in_a_row_leave_less_and_less_work(tmp_path: Path) -> None:
    source = save_tiny(tmp_path / "source", **SMALL)
    finished = run(source, tmp_path / "whole")
    assert finished is not None
    steps = [finished[1]]
    for _ in range(3):
        assert run(source, tmp_path / "out", finished[1] // 5) is None
        done = len((tmp_path / ".out.partial" / "journal").read_text().splitlines()) - 1
        steps.append(done)
    assert steps[1] < steps[2] < steps[3]
    last = run(source, tmp_path / "out")
    assert last is not None
    assert last[0] == steps[3]
    assert last[1] < finished[1] * 0.7
    assert content(tmp_path / "out") == content(tmp_path / "whole")


def test_another_conversion_into_the_same_place_is_refused(tmp_path: Path) -> None:
    from llama3_mlx import ConversionError

    source = save_tiny(tmp_path / "source", **SMALL)
    with start(source, tmp_path / "out", 20) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "here\n"
        try:
            with pytest.raises(ConversionError, match="another conversion is writing to"):
                convert(source, tmp_path / "out", bits=4)
        finally:
            process.kill()
    convert(source, tmp_path / "out", bits=4)
