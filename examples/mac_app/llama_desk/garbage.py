"""Keeps the garbage collector on the event loop's thread.

Python collects in whatever thread happens to allocate. A window that was closed is garbage with cycles in it; collected
while the model's thread runs, it would be destroyed there, and neither Qt nor AppKit survives that.
"""

import gc


def begin() -> None:
    """End automatic collections. What was imported stays for good and is left out of those to come."""
    gc.disable()
    gc.freeze()


def collect_young() -> None:
    """Collect what became garbage lately, which takes a moment; to be called often, on the event loop's thread."""
    gc.collect(1)


def collect_all() -> None:
    """Collect everything, which with a model's tables in memory takes longer; for when nobody is typing."""
    gc.collect()
