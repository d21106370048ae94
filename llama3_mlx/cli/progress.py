"""Progress on stderr: a bar where it is a terminal, a few lines where it is a file."""

import sys
import threading
import time
from types import TracebackType
from typing import TYPE_CHECKING

from ..units import size_text

if TYPE_CHECKING:
    from rich.progress import ProgressColumn, Task, TaskID


class ConversionProgress:
    """Shows tensors and bytes of a conversion, then what else it is at. There is nothing to see before either."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

        console = Console(stderr=True)
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[told]}"),
            TimeElapsedColumn(),
            _time_left(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._lines = not console.is_terminal
        self._task = self._progress.add_task("", visible=False, told="", left=False)
        self._phase: TaskID | None = None
        self._quarter = 0
        self._total = self._bytes = self._done = self._read = self._percent = 0
        self._converting = False

    def __enter__(self) -> "ConversionProgress":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Leave the terminal as it was found."""
        self._progress.stop()

    def stage(self, name: str) -> None:
        """Show what is being done that isn't counted in tensors."""
        self._show(name, None)
        self._converting = False
        if self._lines:
            sys.stderr.write(f"{name}\n")

    def phase(self, name: str, done: int, total: int) -> None:
        """Show how much of a counted part of the work is done, below the conversion's own bar."""
        if done < total:
            if self._phase is None:
                self._phase = self._progress.add_task(name, total=total, told="", left=True)
                self._quarter = 0
            self._progress.update(self._phase, description=name, completed=done, total=total, told=f"{done}/{total}")
            self._progress.start()
        elif self._phase is not None:
            self._progress.remove_task(self._phase)
            self._phase = None
        # One bar until there is something to show of both. How long the conversion takes, its bytes don't tell now.
        self._progress.update(self._task, visible=self._phase is None or self._converting, left=False)
        if self._lines and 4 * done // total > self._quarter:
            self._quarter = 4 * done // total
            sys.stderr.write(f"{name}: {done} of {total}\n")

    def start(self, total_tensors: int, total_bytes: int) -> None:
        """Take the size of the whole job."""
        self._total, self._bytes = total_tensors, total_bytes
        self._show("converting", total_bytes)
        self._converting = False

    def advance(self, tensor: str, n_bytes: int, *, finished: bool) -> None:
        """Move on by the bytes read."""
        self._done += finished
        self._converting = True
        self._read += n_bytes
        told = f"{self._done}/{self._total} tensors, {size_text(self._read)} of {size_text(self._bytes)}"
        self._progress.update(self._task, advance=n_bytes, told=told)
        percent = 100 * self._done // max(1, self._total)
        if self._lines and percent >= self._percent + 25:
            self._percent = percent
            sys.stderr.write(f"converting: {self._done} of {self._total} tensors, {size_text(self._read)}\n")

    def _show(self, name: str, total: int | None) -> None:
        self._progress.remove_task(self._task)
        self._task = self._progress.add_task(name, total=total, told="", left=bool(total))
        # Not before: a download shows bars of its own.
        self._progress.start()


def _time_left() -> "ProgressColumn":
    """Return a column with the time left of the tasks that can tell it."""
    from rich.progress import TimeRemainingColumn
    from rich.text import Text

    class TimeLeft(TimeRemainingColumn):
        def render(self, task: "Task") -> Text:
            if not task.fields["left"] or task.time_remaining is None:
                return Text("")
            return super().render(task).append(" left")

    return TimeLeft()


class PromptBar:
    """Shows how much of a long prompt is read: on a terminal, where it takes more than a moment."""

    _AFTER_S = 1.0

    def __init__(self) -> None:
        self._began_s = time.monotonic()
        self._shown = False
        # Reports come from the engine's thread, the end from the one that writes the answer.
        self._closed = not sys.stderr.isatty()
        self._lock = threading.Lock()

    def __enter__(self) -> "PromptBar":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def report(self, done: int, total: int) -> None:
        """Show that `done` of `total` tokens are read."""
        with self._lock:
            if self._closed or time.monotonic() - self._began_s < self._AFTER_S:
                return
            self._shown = True
            sys.stderr.write(f"\rreading the prompt: {done:,} of {total:,} tokens\x1b[K")
            sys.stderr.flush()

    def close(self) -> None:
        """Take the line away, for what comes next."""
        with self._lock:
            if self._shown and not self._closed:
                sys.stderr.write("\r\x1b[K")
                sys.stderr.flush()
            self._closed = True
