"""A download that reports its progress and that Ctrl-C ends, in threads that nobody has to wait for."""

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

T = TypeVar("T")
Report = Callable[[int, int], None]
_WAIT_S, _LOOK_S = 1.0, 0.2
_AT_ONCE = 8
# How concurrent.futures names the threads of its pools.
_POOL = "ThreadPoolExecutor"
_interrupted = threading.Event()


class StoppedError(Exception):
    """Raised inside a download's threads to end them."""


class InterruptibleCall:
    """Runs calls in threads of its own, so that the caller hears Ctrl-C, or that `stop` is set, while it waits.

    They are daemons: the interpreter ends without waiting for their next block of bytes. `stopped` is what they look
    at; `stop` belongs to the caller and is only read.
    """

    def __init__(self, stop: threading.Event | None = None) -> None:
        self.stopped = threading.Event()
        self._stop = stop or threading.Event()

    def call(self, function: Callable[[], T]) -> T:
        """Return what the function returns; raises what it raises, and StoppedError once `stop` is set."""
        results: list[T] = []
        self._run([lambda: results.append(function())])
        return results[0]

    def call_each(self, function: Callable[[str], object], names: Iterable[str]) -> None:
        """Call the function with each name, several at a time; raises the first error as `call` does."""
        waiting = deque(names)

        def work() -> None:
            while not self.stopped.is_set():
                try:
                    name = waiting.popleft()
                except IndexError:
                    return
                function(name)

        self._run([work] * min(_AT_ONCE, len(waiting)))

    def _run(self, works: Sequence[Callable[[], None]]) -> None:
        ended: SimpleQueue[Exception | None] = SimpleQueue()

        def run(work: Callable[[], None]) -> None:
            try:
                work()
            except Exception as error:
                ended.put(error)
            else:
                ended.put(None)

        threads = [threading.Thread(target=run, args=(work,), daemon=True, name="download") for work in works]
        for thread in threads:
            thread.start()
        try:
            self._wait_for(ended, len(threads))
        except (KeyboardInterrupt, StoppedError) as stop:
            self.stopped.set()
            if isinstance(stop, KeyboardInterrupt):
                _interrupted.set()
            # A moment to end, so that they write nothing after what follows.
            for thread in threads:
                thread.join(_WAIT_S / len(threads))
            raise

    def _wait_for(self, ended: "SimpleQueue[Exception | None]", count: int) -> None:
        while count:
            try:
                error = ended.get(timeout=_LOOK_S)
            except Empty:
                error = None
            else:
                count -= 1
            if self._stop.is_set():
                raise StoppedError("the download was stopped")
            if error is not None:
                raise error


@contextmanager
def interruptible(stop: threading.Event | None = None) -> Iterator[InterruptibleCall]:
    """Give what runs calls; when the block is left, whatever still runs ends at its next block of bytes."""
    running = InterruptibleCall(stop)
    try:
        yield running
    finally:
        running.stopped.set()


def interrupted() -> bool:
    """Return whether Ctrl-C has stopped a download of this process."""
    return _interrupted.is_set()


def pool_waits() -> bool:
    """Return whether threads that the interpreter would wait for still run: those of huggingface_hub's own pool."""
    return any(thread.name.startswith(_POOL) for thread in threading.enumerate())


def bar_class(stopped: threading.Event, report: Report | None, total: int = 0) -> type[Any]:
    """Return a tqdm class that draws nothing, counts bytes for `report` and ends its thread once `stopped` is set.

    The bars of all files are counted together. `total` is known beforehand; 0: take the sum of the files that have
    begun.
    """
    from tqdm.std import tqdm

    counted: list[Any] = []

    class Bar(tqdm):  # type: ignore[misc]
        """Counts the bytes of a file, or of all files of a download."""

        def __init__(self, *args: Any, **more: Any) -> None:
            more.pop("name", None)
            super().__init__(*args, **{**more, "disable": False, "file": _Nowhere(), "bar_format": "{desc}"})
            # Where the Hub sends pieces that are put together here, both are counted; one count is enough.
            if self.unit == "B" and "downloading bytes" not in self.desc.lower():
                counted.append(self)

        def display(self, *_: Any, **__: Any) -> None:
            """Draw nothing."""

        def update(self, n: float | None = 1) -> bool | None:
            """Count and report."""
            if stopped.is_set():
                raise StoppedError("the download was stopped")
            shown: bool | None = super().update(n)
            if report is not None and any(bar is self for bar in counted):
                done = sum(int(bar.n) for bar in counted)
                report(done, max(total, sum(int(bar.total or 0) for bar in counted), done))
            return shown

    return Bar


class _Nowhere:
    """A file that keeps nothing."""

    def write(self, _: str) -> int:
        return 0

    def flush(self) -> None:
        pass
