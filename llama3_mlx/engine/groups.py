"""The running sequences in as many batches as the model has stages: one, or in a pipeline one for each process.

There a pass goes from process to process. While one works on a batch, the others work on other batches: each step
completes the pass of one batch and begins its next, in turn, while the passes of the others stay under way. So rank 0
runs its layers for one batch, then receives the pass before of the next. What begins and completes, and so what is sent
and received, has the same order on all processes, whoever is faster.
"""

from collections.abc import Sequence

import mlx.core as mx

from ..kv_cache import ModelCache
from .batch import Batch
from .sequence import DecodingSequence


class Groups:
    """Batches with a KV cache each; a sequence stays in the one that it has joined."""

    def __init__(self, batches: Sequence[Batch]) -> None:
        self.batches = list(batches)
        self._turn = 0

    @property
    def sequences(self) -> list[DecodingSequence]:
        """All sequences that are being decoded."""
        return [sequence for batch in self.batches for sequence in batch.sequences]

    def step(self) -> None:
        """Generate a token, or more by a draft, for each sequence of one batch; they take turns."""
        batch = self._next()
        # A draft continues known tokens: a batch speculates with no pass of its own under way.
        batch.complete()
        batch.finish()
        if batch.sequences and not batch.speculate():
            batch.begin()
        if len(self.batches) == 1:
            batch.complete()
        batch.finish()

    def add(self, sequences: Sequence[DecodingSequence], cache: ModelCache, logits: mx.array) -> None:
        """Share out the sequences of one prompt, given its cache and last logits (1, V)."""
        joining: list[list[DecodingSequence]] = [[] for _ in self.batches]
        for sequence in sequences:
            counts = [len(batch.sequences) + len(new) for batch, new in zip(self.batches, joining, strict=True)]
            joining[counts.index(min(counts))].append(sequence)
        for batch, new in zip(self.batches, joining, strict=True):
            if new:
                batch.add(new, cache, logits)

    def resume(self, sequence: DecodingSequence, cache: ModelCache) -> None:
        """Add a sequence that was preempted: its recomputed cache has all but the latest token."""
        min(self.batches, key=lambda batch: len(batch.sequences)).resume(sequence, cache)

    def preempt(self, sequence: DecodingSequence) -> bool:
        """Remove a sequence that is to be recomputed later; False if it has finished with its latest token."""
        return next(batch for batch in self.batches if sequence in batch.sequences).preempt(sequence)

    def finish(self) -> None:
        """Remove the sequences that have ended."""
        for batch in self.batches:
            batch.finish()

    def abandon(self) -> list[DecodingSequence]:
        """Drop everything and return the sequences, which stay unfinished."""
        return [sequence for batch in self.batches for sequence in batch.abandon()]

    def clear(self) -> None:
        """Free the memory of the KV caches."""
        for batch in self.batches:
            batch.cache.clear()

    def _next(self) -> Batch:
        """Return the next batch that has sequences; there is one."""
        while True:
            self._turn = (self._turn + 1) % len(self.batches)
            if self.batches[self._turn].sequences:
                return self.batches[self._turn]
