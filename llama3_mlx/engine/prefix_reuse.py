"""Where the KV cache of a prompt's first tokens may come from: the batch itself, memory, or disk."""

from collections.abc import Callable

import numpy as np

from ..kv_cache import ModelCache
from ..prefix_cache.disk_queue import DiskPrefixCache
from ..prefix_cache.memory import MIN_PREFIX, PrefixCache, common_length
from .batch import Batch
from .request import Request
from .sequence import DecodingSequence


class PrefixReuse:
    """Finds the longest known prefix of a prompt, and keeps finished sequences for later prompts."""

    def __init__(self, memory: PrefixCache, disk: DiskPrefixCache | None) -> None:
        self.memory, self.disk = memory, disk

    def find(self, request: Request, batch: Batch) -> ModelCache | None:
        """Return a cache of the longest prefix of the prompt, None without any."""
        if request.wants_prompt_logprobs:
            return None
        found = self.memory.find(request.prompt, request.adapter)
        length = found.lengths[0] if found else 0
        running = _find_running(request, length, batch)
        if running is not None:
            return running
        if self.disk is not None:
            return self.disk.find(request.prompt, request.adapter, length) or found
        return found

    def keep(self, sequence: DecodingSequence, take: Callable[[], ModelCache]) -> None:
        """Keep the cache of a finished sequence, which `take` copies, for the prompts that continue it."""
        if self.memory.budget_bytes <= 0 and self.disk is None:
            return
        tokens = [*sequence.request.prompt, *sequence.tokens]
        cache = take()
        length = min(len(tokens), cache.lengths[0])
        if not cache.can_trim(0, length):
            return
        cache.trim(length)
        self.memory.put(tokens[:length], sequence.request.adapter, cache)
        if self.disk is not None:
            self.disk.put(tokens[:length], sequence.request.adapter, cache)

    def write_one(self) -> bool:
        """Write one queued sequence to disk; return whether there was one."""
        return self.disk is not None and self.disk.write_one()


def _find_running(request: Request, length: int, batch: Batch) -> ModelCache | None:
    """Return a copy of a running sequence's cache if it shares at least a chunk more than `length` tokens."""
    prompt, best = np.asarray(request.prompt[:-1], np.int32), None
    for index, sequence in enumerate(batch.sequences):
        if sequence.request.adapter != request.adapter:
            continue
        n = common_length(np.asarray(sequence.request.prompt, np.int32), prompt)
        if n >= length + MIN_PREFIX and batch.cache.can_trim(index, n):
            best, length = index, n
    if best is None:
        return None
    cache = batch.cache.take(best)
    cache.trim(length)
    return cache
