"""What keys and values of the answers in a batch take as they grow."""

from collections.abc import Sequence

from .request import Request
from .row import Row
from .settings import EngineSettings

# Tokens that a newcomer and all others must have room for; beyond that, the youngest make room for the oldest.
HEADROOM = 256
STEP_HEADROOM = 32


def needed_bytes(settings: EngineSettings, rows: Sequence[Row], request: Request | None, more: int) -> float:
    """Return what keys and values take when all rows, and the answers to a request, are longer by up to `more`.

    Every row of a batch has the room of the longest.
    """
    lengths = [row.length + min(more, row.room) for row in rows]
    if request is not None:
        lengths += [request.length_after(more)] * len(request.asks)
    return len(lengths) * settings.cache.kept(max(lengths, default=0)) * settings.bytes_per_token
