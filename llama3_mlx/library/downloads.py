"""A download that reports its progress and that Ctrl-C ends, around huggingface_hub's own threads."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

T = TypeVar("T")
Report = Callable[[int, int], None]
_WAIT_S, _LOOK_S = 1.0, 0.2
# How concurrent.futures names the threads of its pools.
_POOL = "ThreadPoolExecutor"
_running: set[threading.Thread] = set()
_interrupted = threading.Event()


class StoppedError(Exception):
    """Raised inside a download's threads to end them."""


class InterruptibleCall:
    """Runs a call in a thread of its own, so that the caller hears Ctrl-C, or that `stopped` is set, while it waits."""

    def __init__(self, stopped: threading.Event | None = None) -> None:
        self.stopped = stopped or threading.Event()

    def call(self, function: Callable[[], T]) -> T:
        """Return what the function returns; raises what it raises, and StoppedError once `stopped` is set."""
        results: list[T] = []
        errors: list[Exception] = []

        def work() -> None:
            try:
                results.append(function())
            except Exception as error:
                errors.append(error)
            finally:
                _running.discard(thread)

        thread = threading.Thread(target=work, daemon=True, name="download")
        _running.add(thread)
        thread.start()
        try:
            while thread.is_alive():
                thread.join(_LOOK_S)
                if self.stopped.is_set():
                    raise StoppedError("the download was stopped")
        except BaseException:
            self.stopped.set()
            _interrupted.set()
            thread.join(_WAIT_S)
            raise
        if errors:
            raise errors[0]
        return results[0]


@contextmanager
def interruptible(stopped: threading.Event | None = None) -> Iterator[InterruptibleCall]:
    """Give what runs calls; when the block is left, whatever still runs ends at its next block of bytes."""
    running = InterruptibleCall(stopped)
    try:
        yield running
    finally:
        running.stopped.set()


def unfinished() -> bool:
    """Return whether an interrupted download still waits for its next block of bytes.

    The threads of huggingface_hub's pool outlive the call, and the interpreter waits for them.
    """
    pooled = (thread for thread in threading.enumerate() if thread.name.startswith(_POOL))
    return _interrupted.is_set() and any(thread.is_alive() for thread in (*_running, *pooled))


def bar_class(stopped: threading.Event, report: Report | None, total: int = 0) -> type[Any]:
    """Return a tqdm class that draws nothing, counts bytes for `report` and ends its thread once `stopped` is set.

    `total` is known beforehand; 0: take the sum of the files that have begun.
    """
    from tqdm.std import tqdm

    class Bar(tqdm):  # type: ignore[misc]
        """Counts the bytes of all files of a download."""

        def __init__(self, *args: Any, **more: Any) -> None:
            more.pop("name", None)
            super().__init__(*args, **{**more, "disable": False, "file": _Nowhere(), "bar_format": "{desc}"})
            # Where the Hub sends pieces that are put together here, both are counted; one count is enough.
            self._counts = self.unit == "B" and self.desc.rstrip(": ") != "Downloading bytes"

        def display(self, *_: Any, **__: Any) -> None:
            """Draw nothing."""

        def update(self, n: float | None = 1) -> bool | None:
            """Count and report."""
            if stopped.is_set():
                raise StoppedError("the download was stopped")
            shown: bool | None = super().update(n)
            if report is not None and self._counts:
                report(int(self.n), max(total, int(self.total or 0), int(self.n)))
            return shown

    return Bar


class _Nowhere:
    """A file that keeps nothing."""

    def write(self, _: str) -> int:
        return 0

    def flush(self) -> None:
        pass
