"""Prefixes on disk as the engine uses them: looked for when a prompt comes, written when nobody waits."""

from collections import deque
from collections.abc import Callable, Sequence

import mlx.core as mx

from ..kv_cache import ModelCache
from .disk import BLOCK, BlockStore

# Shorter texts are run again sooner than they are worth a file.
LEAST = 2 * BLOCK
_MOST_QUEUED = 8


class DiskPrefixCache:
    """Blocks of one model; `fingerprint` tells what keys and values depend on, for an adapter or the base."""

    def __init__(
        self, disk: BlockStore, make_cache: Callable[[], ModelCache], fingerprint: Callable[[str | None], str]
    ) -> None:
        self._disk, self._make_cache, self._fingerprint = disk, make_cache, fingerprint
        self._known: dict[str | None, str] = {}
        self._queue: deque[tuple[list[int], str | None, ModelCache]] = deque(maxlen=_MOST_QUEUED)

    def find(self, prompt: Sequence[int], adapter: str | None, length: int) -> ModelCache | None:
        """Return a cache of at least a block more of the prompt than `length` tokens, if the disk has it."""
        if len(prompt) <= BLOCK:
            return None
        name, wanted = self._name(adapter), prompt[:-1]
        if self._disk.find(name, wanted) < length + BLOCK:
            return None
        cache = self._make_cache()
        for arrays in self._disk.load(name, wanted):
            cache.extend(arrays, BLOCK)
        mx.eval(cache.arrays)
        return cache if cache.lengths and cache.lengths[0] > length else None

    def keep(self, tokens: Sequence[int], adapter: str | None, cache: ModelCache) -> None:
        """Note a text of one row to be written later."""
        window = cache.options.window
        if len(tokens) >= LEAST and (window is None or len(tokens) <= window):
            self._queue.append((list(tokens), adapter, cache))

    def write_one(self) -> bool:
        """Write the next text that was noted; return whether there was one."""
        if not self._queue:
            return False
        tokens, adapter, cache = self._queue.popleft()
        self._disk.save(self._name(adapter), tokens, cache.block)
        return True

    def _name(self, adapter: str | None) -> str:
        if adapter not in self._known:
            self._known[adapter] = self._fingerprint(adapter)
        return self._known[adapter]
