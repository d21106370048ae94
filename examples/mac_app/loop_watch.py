"""How late an event loop is, and what of that can be the model's: a timer, and the processor time of other threads.

A loop is late when something else has its thread (drawing, the loop's own work), when another of the program's threads
has Python's lock, or when the machine runs other programs. The second is the model's part. No thread holds the lock for
longer than it computes, so the processor time of the program's other threads in the meantime is an upper bound of it,
however busy the machine is. MLX's own threads never have the lock and don't count.
"""

import asyncio
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field

_BEAT_S = 0.002
_CLOCKS = hasattr(time, "pthread_getcpuclockid")
# Upper ends of the histogram's buckets, in milliseconds; one more holds what is beyond.
BUCKETS_MS = (1, 5, 10, 20, 50)


@dataclass
class Waits:
    """How often the loop was late by how much, and the longest times, in milliseconds."""

    late: list[int] = field(default_factory=lambda: [0] * (len(BUCKETS_MS) + 1))
    """How many of the timers were late by at most 1, 5, 10, 20, 50 ms, or more."""
    for_model: list[int] = field(default_factory=lambda: [0] * (len(BUCKETS_MS) + 1))
    """The same for what at most was the model's of each."""
    longest_ms: float = 0.0
    longest_for_model_ms: float = 0.0
    longest_own_ms: float = 0.0
    """The processor time of the loop's own thread: what drawing took at once."""

    def add(self, late_ms: float, model_ms: float, own_ms: float) -> None:
        """Count one timer."""
        model_ms = min(model_ms, late_ms)
        self.late[_bucket(late_ms)] += 1
        self.for_model[_bucket(model_ms)] += 1
        self.longest_ms = max(self.longest_ms, late_ms)
        self.longest_for_model_ms = max(self.longest_for_model_ms, model_ms)
        self.longest_own_ms = max(self.longest_own_ms, own_ms)


def _bucket(ms: float) -> int:
    return sum(ms > end for end in BUCKETS_MS)


class LoopWatch:
    """Watches the running loop; `waits` is what it has seen and may be replaced, to begin anew."""

    def __init__(self) -> None:
        self.waits = Waits()
        self._task = asyncio.create_task(self._watch())

    def end(self) -> None:
        """Watch no longer."""
        self._task.cancel()

    async def _watch(self) -> None:
        loop = asyncio.get_running_loop()
        others, own = _others_s(), time.thread_time()
        while True:
            due = loop.time() + _BEAT_S
            await asyncio.sleep(_BEAT_S)
            late = loop.time() - due
            before, others = others, _others_s()
            own_before, own = own, time.thread_time()
            # Where the system has no such clocks, as macOS, all of a wait may be the model's.
            spent = sum(seconds - before.get(thread, 0.0) for thread, seconds in others.items()) if _CLOCKS else late
            self.waits.add(late * 1000, spent * 1000, (own - own_before) * 1000)


def _others_s() -> dict[int, float]:
    """Return the processor time so far of each of the program's other threads."""
    found: dict[int, float] = {}
    for thread in threading.enumerate() if _CLOCKS else ():
        if thread.ident is None or thread.ident == threading.get_ident():
            continue
        # It may just have ended.
        with suppress(OSError):
            found[thread.ident] = time.clock_gettime(time.pthread_getcpuclockid(thread.ident))
    return found
