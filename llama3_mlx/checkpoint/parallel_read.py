"""Reads stretches of a file into memory, large ones in several threads at once.

Measured on a Linux machine with a cold page cache: 64 MB by one `preadv` at 170 to 370 MB/s, by four at 1,350 MB/s.
"""

import os
from concurrent.futures import ThreadPoolExecutor
from functools import cache

from ..errors import CheckpointError

_THREADS = 4
# A smaller stretch isn't worth the threads; a larger call than this the system may cut short.
_PARALLEL_BYTES, _CALL_BYTES = 4_000_000, 1 << 30


def read_into(file: int, view: memoryview, offset: int) -> None:
    """Fill the bytes of `view` from an open file; raises CheckpointError if it ends before."""
    n = len(view)
    if n < _PARALLEL_BYTES:
        _fill(file, view, offset)
        return
    step = -(-n // _THREADS)
    parts = [_pool().submit(_fill, file, view[at : at + step], offset + at) for at in range(0, n, step)]
    for part in parts:
        part.result()


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(_THREADS, "read")


def _fill(file: int, view: memoryview, offset: int) -> None:
    at = 0
    while at < len(view):
        n = os.preadv(file, [view[at : at + _CALL_BYTES]], offset + at)
        if not n:
            raise CheckpointError(f"the file ended at byte {offset + at} while {len(view) - at} more were due")
        at += n
