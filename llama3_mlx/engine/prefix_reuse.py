"""Where the KV cache of a prompt's first tokens may come from: the batch itself, memory, or disk."""

from collections.abc import Callable

import numpy as np

from ..kv_cache import ModelCache
from ..prefix_cache.disk_queue import DiskPrefixCache
from ..prefix_cache.memory import MIN_PREFIX, FoundPrefix, PrefixCache, common_length, trimmed
from .batch import Batch
from .groups import Groups
from .request import Request
from .sequence import DecodingSequence


class PrefixReuse:
    """Finds the longest known prefix of a prompt, and keeps finished sequences for later prompts."""

    def __init__(self, memory: PrefixCache, disk: DiskPrefixCache | None) -> None:
        self.memory, self.disk = memory, disk

    def find(self, request: Request, groups: Groups, *, with_head: bool = False) -> FoundPrefix | None:
        """Return a cache of the longest prefix of the prompt, None without any; `with_head` with the draft head's."""
        if request.wants_prompt_logprobs:
            return None
        found = self.memory.find(request.prompt, request.adapter, with_head=with_head)
        length = found.cache.lengths[0] if found else 0
        running = _find_running(request, length, groups, with_head=with_head)
        if running is not None:
            return running
        if self.disk is not None:
            return self.disk.find(request.prompt, request.adapter, length, with_head=with_head) or found
        return found

    def keep(self, sequence: DecodingSequence, take: Callable[[], ModelCache]) -> None:
        """Keep the cache of a finished sequence, which `take` copies, for the prompts that continue it."""
        if self.memory.budget_bytes <= 0 and self.disk is None:
            return
        tokens = [*sequence.request.prompt, *sequence.tokens]
        if len(tokens) < MIN_PREFIX:
            return
        cache = take()
        length = min(len(tokens), cache.lengths[0])
        if not cache.can_trim(0, length):
            return
        cache.trim(length)
        head = sequence.speculator.entries(length) if sequence.speculator is not None else None
        self.memory.put(tokens[:length], sequence.request.adapter, cache, head)
        if self.disk is not None:
            self.disk.put(tokens[:length], sequence.request.adapter, cache, head)

    def write_one(self) -> bool:
        """Write one queued sequence to disk; return whether there was one."""
        return self.disk is not None and self.disk.write_one()


def _find_running(request: Request, length: int, groups: Groups, *, with_head: bool) -> FoundPrefix | None:
    """Return a copy of a running sequence's cache if it shares at least a chunk more than `length` tokens."""
    prompt = np.asarray(request.prompt[:-1], np.int32)
    best: tuple[Batch, int] | None = None
    for batch in groups.batches:
        for index, sequence in enumerate(batch.sequences):
            if sequence.request.adapter != request.adapter:
                continue
            n = common_length(np.asarray(sequence.request.prompt, np.int32), prompt)
            if n >= length + MIN_PREFIX and batch.cache.can_trim(index, n):
                best, length = (batch, index), n
    if best is None:
        return None
    batch, index = best
    speculator = batch.sequences[index].speculator
    head = speculator.entries(length) if with_head and speculator is not None else None
    return trimmed(batch.cache.take(index), head, length)
