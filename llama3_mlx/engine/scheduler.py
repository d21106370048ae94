"""Decides what the next step does: which requests are admitted, how much of a prompt is run, which sequences wait.

A newly admitted request's prompt is run in chunks between the decode steps of the others, each chunk about as long as
a step, so that no answer stalls for another's prompt. How long answers get isn't known when they are admitted. Room for
all that they may generate would let them run one by one only, so more are admitted; where memory then runs short, the
prefix cache shrinks first, then the youngest sequences are preempted and recomputed later.
"""

import time
from collections.abc import Callable

from ..prefix_cache.memory import PrefixCache
from .groups import Groups
from .prefill import Prefill
from .request import Request
from .sequence import DecodingSequence
from .settings import Counts, EngineSettings

# Tokens that a newly admitted request and all sequences must have memory for, and those of the next steps.
_ADMISSION_HEADROOM = 256
_STEP_HEADROOM = 32
_MIN_CHUNK, _FIRST_CHUNK = 16, 64
# For prompts whose progress is followed. A constant, no time: with a quantized KV cache the text depends on the
# chunks, and the same seed should give the same text again.
_REPORTED_CHUNK = 256


class Scheduler:
    """The waiting requests, the prompt that is being run, and the memory of all sequences."""

    def __init__(
        self,
        settings: EngineSettings,
        groups: Groups,
        prefix_cache: PrefixCache,
        counts: Counts,
        *,
        start: Callable[[Request], Prefill],
        make_sequences: Callable[[Request], list[DecodingSequence]],
        one_at_a_time: bool = False,
    ) -> None:
        """`start` begins the prefill of an admitted request, `make_sequences` builds those of its answers."""
        self.settings, self.counts = settings, counts
        self.waiting: list[Request] = []
        self.prefill: Prefill | None = None
        self._groups, self._prefix_cache = groups, prefix_cache
        self._start, self._make_sequences = start, make_sequences
        self._one_at_a_time = one_at_a_time
        self._pace = Pace(settings.max_chunk)
        self._began_s, self._chunk, self._decoding = 0.0, 0, False

    def add(self, request: Request) -> None:
        """Queue a request: higher priority first, then first come."""
        self.waiting.append(request)
        self.waiting.sort(key=lambda request: request.order)

    def schedule(self) -> tuple[Prefill | None, int]:
        """Choose the work of the next step: return the prompt to run, if any, and how many of its tokens."""
        self._end_what_is_over()
        self._began_s, self._decoding = time.perf_counter(), bool(self._groups.sequences)
        if self.prefill is None:
            self.prefill = self._admit()
        self._make_room()
        self._chunk = 0 if self.prefill is None else min(self._chunk_size(self.prefill), self.prefill.remaining)
        return self.prefill, self._chunk

    def decodes_now(self) -> bool:
        """Whether the step decodes: always while somebody follows an answer, else once no prompt can join before."""
        if not self._groups.sequences:
            return False
        may_join = self.prefill is not None or (bool(self.waiting) and self._has_room(self.waiting[0]))
        return self._followed or not may_join

    def record_step(self) -> None:
        """Learn from the time of a step that decoded."""
        if self._decoding:
            self._pace.record(time.perf_counter() - self._began_s, self._chunk)

    def fail_all(self, error: Exception) -> None:
        """End all waiting requests with an error."""
        for request in self.waiting:
            request.fail(error)
        self.waiting.clear()

    @property
    def _followed(self) -> bool:
        """Whether somebody follows what is being generated, so that a prompt mustn't stall it."""
        return any(not sequence.request.bulk for sequence in self._groups.sequences)

    def _end_what_is_over(self) -> None:
        """End what is cancelled or out of time, whether it is decoding, waiting or being prefilled."""
        for sequence in self._groups.sequences:
            sequence.check()
        self._groups.finish()
        over = [request for request in self.waiting if request.is_over]
        self.waiting = [request for request in self.waiting if request not in over]
        if self.prefill is not None and self.prefill.request.is_over:
            over.append(self.prefill.request)
            self.prefill = None
        for sequence in [sequence for request in over for sequence in self._make_sequences(request)]:
            sequence.check()
            sequence.finish_reason = sequence.finish_reason or "cancelled"
            sequence.finish()

    def _admit(self) -> Prefill | None:
        """Start the first of the waiting requests if there is a place and memory for it."""
        if not self.waiting or (self._groups.sequences and not self._has_room(self.waiting[0])):
            return None
        request = self.waiting.pop(0)
        self.counts.requests += request.resumed is None
        try:
            return self._start(request)
        except Exception as error:
            request.fail(error)
            return None

    def _has_room(self, request: Request) -> bool:
        n = len(self._groups.sequences) + len(request.answers)
        if self._one_at_a_time or n > self.settings.max_sequences:
            return False
        return self._needed_bytes(request, _ADMISSION_HEADROOM) <= self.settings.memory_bytes

    def _make_room(self) -> None:
        """Shrink the prefix cache, then preempt the youngest sequences, until the next steps have memory."""
        while True:
            request = self.prefill.request if self.prefill else None
            left = self.settings.memory_bytes - self._needed_bytes(request, _STEP_HEADROOM)
            if left < self._prefix_cache.budget_bytes:
                self._prefix_cache.shrink(max(0, int(left)))
            if left >= 0 or len(self._groups.sequences) < 2:
                return
            youngest = max(self._groups.sequences, key=lambda sequence: sequence.request.order)
            if self._groups.preempt(youngest):
                self.counts.preempted += 1
                self.add(youngest.resumption())

    def _needed_bytes(self, request: Request | None, headroom: int) -> float:
        """Return the KV cache of all sequences, and the answers to a request, with up to `headroom` more tokens each.

        Every sequence of a batch has the capacity of the longest.
        """
        lengths = [sequence.length + min(headroom, sequence.remaining) for sequence in self._groups.sequences]
        if request is not None:
            lengths += [request.length_after(headroom)] * len(request.answers)
        longest = self.settings.cache.cached_positions(max(lengths, default=0))
        return len(lengths) * longest * self.settings.bytes_per_token

    def _chunk_size(self, prefill: Prefill) -> int:
        if self._followed:
            return self._pace.chunk()
        most = self.settings.max_chunk
        return most if prefill.request.progress is None else min(most, _REPORTED_CHUNK)


class Pace:
    """Chooses how long a prompt's chunk may be so that it takes about as long as one decode step."""

    def __init__(self, max_chunk: int) -> None:
        self._max_chunk = max_chunk
        self._step_s = 0.0
        self._token_s = 0.0

    def record(self, seconds: float, chunk: int) -> None:
        """Record the time of a step, with a chunk of so many tokens before it."""
        if not chunk:
            self._step_s = _smoothed(self._step_s, seconds)
        elif self._step_s:
            self._token_s = _smoothed(self._token_s, max(seconds - self._step_s, 0.0) / chunk)

    def chunk(self) -> int:
        """Return the length of the next chunk."""
        if not self._step_s or not self._token_s:
            return min(_FIRST_CHUNK, self._max_chunk)
        return max(_MIN_CHUNK, min(self._max_chunk, int(self._step_s / self._token_s)))


def _smoothed(old: float, new: float) -> float:
    return 0.8 * old + 0.2 * new if old else new
