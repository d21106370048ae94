"""Progress on stderr: a bar where it is a terminal, a few lines where it is a file."""

import sys
from types import TracebackType


class ConversionProgress:
    """Shows tensors and bytes of a conversion."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

        console = Console(stderr=True)
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[tensors]}"),
            DownloadColumn(),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._lines = not console.is_terminal
        self._task = self._progress.add_task("converting", total=None, tensors="")
        self._total = self._done = self._percent = 0

    def __enter__(self) -> "ConversionProgress":
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def start(self, total_tensors: int, total_bytes: int) -> None:
        """Take the size of the whole job."""
        self._total, self._bytes, self._read = total_tensors, total_bytes, 0
        self._progress.update(self._task, total=total_bytes, tensors=f"0/{total_tensors} tensors")

    def advance(self, tensor: str, n_bytes: int, *, finished: bool) -> None:
        """Move on by the bytes read."""
        self._done += finished
        self._read += n_bytes
        self._progress.update(self._task, advance=n_bytes, tensors=f"{self._done}/{self._total} tensors")
        percent = 100 * self._done // max(1, self._total)
        if self._lines and percent >= self._percent + 25:
            self._percent = percent
            sys.stderr.write(f"converting: {self._done}/{self._total} tensors, {self._read / 1e9:.2f} GB\n")
