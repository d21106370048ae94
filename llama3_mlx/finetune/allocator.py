"""Keeps the allocator's cache of freed buffers small, so that a process's memory stays what training needs."""

from collections.abc import Iterator
from contextlib import contextmanager

import mlx.core as mx

from ..device import working_memory_bytes

_LARGEST = 2 * 2**30


def cache_bytes() -> int:
    """Return how much freed memory may be kept for reuse: a sixteenth of the machine's, at most 2 GB."""
    return min(_LARGEST, working_memory_bytes() // 16)


@contextmanager
def bounded_cache() -> Iterator[None]:
    """Bound the allocator's cache while the block runs, and empty it afterwards."""
    before = mx.set_cache_limit(cache_bytes())
    try:
        yield
    finally:
        mx.clear_cache()
        mx.set_cache_limit(before)
