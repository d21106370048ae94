"""The bar of a download on stderr: one for all files; where stderr is no terminal, a line at each quarter."""

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from threading import Lock
from typing import TYPE_CHECKING

from ..units import size_text
from .downloads import Report

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

_WORTH_A_LINE = 10_000_000


@contextmanager
def download_bar(name: str) -> Iterator[Report]:
    """Give the report of a download; nothing is shown, or imported, before its first bytes."""
    if not _on_terminal():
        yield _Lines(name)
        return
    lock, opened = Lock(), ExitStack()
    shown: list[Report] = []

    def report(done: int, total: int) -> None:
        # Files come in several threads.
        with lock:
            if not shown:
                shown.append(opened.enter_context(_live_bar(name)))
        shown[0](done, total)

    with opened:
        yield report


@contextmanager
def terminal_bar(name: str) -> Iterator[Report | None]:
    """Give the report of a download that shows a bar where stderr is a terminal; None elsewhere."""
    if not _on_terminal():
        yield None
        return
    with download_bar(name) as report:
        yield report


def _on_terminal() -> bool:
    return sys.stderr is not None and sys.stderr.isatty()


@contextmanager
def _live_bar(name: str) -> Iterator[Report]:
    from rich.console import Console

    with _bar(Console(stderr=True)) as progress:
        task = progress.add_task(f"downloading {name}", total=None)

        def report(done: int, total: int) -> None:
            progress.update(task, completed=done, total=total)

        yield report


def _bar(console: "Console") -> "Progress":
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
    )


class _Lines:
    """Writes how far a download is, at each quarter."""

    def __init__(self, name: str) -> None:
        self._name, self._quarter = name, -1

    def __call__(self, done: int, total: int) -> None:
        quarter = 4 * done // max(1, total)
        if quarter > self._quarter and total >= _WORTH_A_LINE:
            self._quarter = quarter
            sys.stderr.write(f"downloading {self._name}: {size_text(done)} of {size_text(total)}\n")
