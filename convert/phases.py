"""Counted parts of the work besides the conversion itself: layers calibrated, windows distilled."""

from collections.abc import Callable
from typing import Protocol, runtime_checkable

MEASURING = "measuring the result against its source"
Phase = Callable[[str, int, int], None]
"""Called with the phase's name, how much of it is done and all of it."""


@runtime_checkable
class CountsPhases(Protocol):
    """A `Progress` that shows phases."""

    def phase(self, name: str, done: int, total: int) -> None:
        """So much of a phase is done; at its end `done` is `total`."""


Told = Callable[[int, int], None]
"""Called with how much of one part is done and all of it."""


def unseen(_name: str, _done: int, _total: int) -> None:
    """Show nothing of a phase."""


def untold(_done: int, _total: int) -> None:
    """Show nothing of a part."""


def phase_of(progress: object) -> Phase:
    """Return what a progress shows of phases."""
    return progress.phase if isinstance(progress, CountsPhases) else unseen
