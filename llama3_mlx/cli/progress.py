"""Progress on stderr: a bar where it is a terminal, a few lines where it is a file."""

import sys
from types import TracebackType


class ConversionProgress:
    """Shows tensors and bytes of a conversion, then what else it is at. There is nothing to see before either."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

        console = Console(stderr=True)
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[told]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[left]}"),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._lines = not console.is_terminal
        self._task = self._progress.add_task("", visible=False, told="", left="")
        self._total = self._bytes = self._done = self._read = self._percent = 0

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
        if self._lines:
            sys.stderr.write(f"{name}\n")

    def start(self, total_tensors: int, total_bytes: int) -> None:
        """Take the size of the whole job."""
        self._total, self._bytes = total_tensors, total_bytes
        self._show("converting", total_bytes)

    def advance(self, tensor: str, n_bytes: int, *, finished: bool) -> None:
        """Move on by the bytes read."""
        self._done += finished
        self._read += n_bytes
        told = f"{self._done}/{self._total} tensors, {self._read / 1e9:.1f}/{self._bytes / 1e9:.1f} GB"
        self._progress.update(self._task, advance=n_bytes, told=told)
        percent = 100 * self._done // max(1, self._total)
        if self._lines and percent >= self._percent + 25:
            self._percent = percent
            sys.stderr.write(f"converting: {self._done}/{self._total} tensors, {self._read / 1e9:.2f} GB\n")

    def _show(self, name: str, total: int | None) -> None:
        self._progress.remove_task(self._task)
        self._task = self._progress.add_task(name, total=total, told="", left="left" if total else "")
        # Not before: a download shows bars of its own.
        self._progress.start()
