"""Runs commands and measures wall time and peak memory of each process."""

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_SCRIPTS = Path(sys.executable).parent


@dataclass(frozen=True)
class Run:
    """What one process took."""

    wall_s: float
    peak_bytes: int
    output: str


def run(command: Sequence[str], **environment: str) -> Run:
    """Run a command of this Python environment to its end; raises where it fails."""
    began = time.perf_counter()
    process = subprocess.Popen(
        [str(_SCRIPTS / command[0]), *command[1:]],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1", **environment},
    )
    assert process.stdout is not None, "stdout is a pipe"
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    wall_s = time.perf_counter() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        assert process.stderr is not None, "stderr is a pipe"
        raise SystemExit(f"{' '.join(command)} failed:\n{process.stderr.read()}")
    unit = 1 if sys.platform == "darwin" else 1024
    return Run(wall_s, usage.ru_maxrss * unit, output)


def best(command: Sequence[str], times: int, **environment: str) -> Run:
    """Return the fastest of several runs."""
    return min((run(command, **environment) for _ in range(times)), key=lambda one: one.wall_s)
