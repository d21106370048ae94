"""Ends this process with the launcher that started it: mlx.launch leaves its processes when SIGTERM ends it."""

import os
import select
import signal
import stat
import threading
import time
from contextlib import suppress

_CHECK_S = 0.5


def end_with_launcher() -> None:
    """Watch the process that started this one, if it gave a pipe as standard input, as mlx.launch does."""
    with suppress(OSError):
        if stat.S_ISFIFO(os.fstat(0).st_mode):
            watch = threading.Thread(target=_watch, args=(os.getppid(),), name="llama3-mlx launcher", daemon=True)
            watch.start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_CHECK_S)
    # Somebody who was started by hand may outlive a shell; a pipe that nobody else holds is a launcher's.
    waiting = select.poll()
    waiting.register(0, 0)
    if any(event & select.POLLHUP for _, event in waiting.poll(0)):
        os.kill(os.getpid(), signal.SIGTERM)
