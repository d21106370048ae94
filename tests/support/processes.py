"""Processes that tests start: none outlives its test, and every wait for one has a deadline.

`with subprocess.Popen(…)` waits without a deadline where its block raises, also after a time limit has ended the test.
"""

import os
import re
import select
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import IO, Any

# A loaded machine takes its time; a process that hangs is one for ever.
WAIT_S = 60.0


@contextmanager
def running(command: Sequence[str], **options: Any) -> Iterator["subprocess.Popen[str]"]:
    """Start a process; at the end kill what is left of it and of what it has started."""
    # For `finished`.
    variables = {**options.pop("env", os.environ), "PYTHONFAULTHANDLER": "1"}
    process: subprocess.Popen[str] = subprocess.Popen(
        command, start_new_session=True, text=True, env=variables, **options
    )
    try:
        yield process
    finally:
        kill(process)


def finished(process: "subprocess.Popen[str]", timeout_s: float = WAIT_S) -> tuple[str, str]:
    """Return what a process that ends writes; one that hangs raises AssertionError, with the stacks of all threads.

    Those of what it has started, too: also of threads that wait in native code, with Python's lock held.
    """
    try:
        return process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGABRT)
        raise AssertionError(f"not ended within {timeout_s:g} s: {process.communicate(timeout=WAIT_S)}") from None


def kill(process: "subprocess.Popen[str]") -> None:
    """End a process that leads a session, and all others of that."""
    # macOS refuses where all that is left has ended.
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(WAIT_S)
    for stream in (process.stdin, process.stdout, process.stderr):
        if stream is not None:
            with suppress(BrokenPipeError):
                stream.close()


def announced(process: "subprocess.Popen[str]", pattern: str, timeout_s: float = WAIT_S) -> str:
    """Return what the group of a pattern finds in the stderr of a process, as it comes. Raises TimeoutError."""
    last, found = time.monotonic() + timeout_s, ""
    while not (match := re.search(pattern, found)):
        part = read_until(process.stderr, "\n", last - time.monotonic())
        assert part, f"the process ended after {found!r}"
        found += part
    return match[1]


def read_until(stream: IO[str] | None, end: str = "", timeout_s: float = WAIT_S) -> str:
    """Return what a process writes to a pipe until it contains `end`; nothing else may have read there before.

    An ended process gives less. Raises TimeoutError.
    """
    assert stream is not None, "it is a pipe"
    last, found = time.monotonic() + timeout_s, b""
    while not found or end.encode() not in found:
        if not select.select([stream], [], [], max(0.0, last - time.monotonic()))[0]:
            raise TimeoutError(f"no {end!r} within {timeout_s:g} s after {found!r}")
        part = os.read(stream.fileno(), 65536)
        if not part:
            break
        found += part
    return found.decode()
