"""The prefix cache on disk as the engine uses it: read when a prompt is admitted, written when the engine is idle."""

from collections import deque
from collections.abc import Callable, Sequence

import mlx.core as mx

from ..kv_cache import ModelCache
from .disk import BLOCK, BlockStore

# Running fewer tokens than this costs less than writing and reading their blocks.
MIN_TOKENS = 2 * BLOCK
_MAX_QUEUED = 8


class DiskPrefixCache:
    """Blocks of one model; `fingerprint` names what its KV cache depends on, for an adapter or the base."""

    def __init__(
        self, store: BlockStore, make_cache: Callable[[], ModelCache], fingerprint: Callable[[str | None], str]
    ) -> None:
        self._store, self._make_cache, self._fingerprint = store, make_cache, fingerprint
        self._fingerprints: dict[str | None, str] = {}
        self._queue: deque[tuple[list[int], str | None, ModelCache]] = deque(maxlen=_MAX_QUEUED)

    def find(self, prompt: Sequence[int], adapter: str | None, length: int) -> ModelCache | None:
        """Return a KV cache of at least a block more of the prompt than `length` tokens, if the disk has it."""
        if len(prompt) <= BLOCK:
            return None
        fingerprint, prefix = self._fingerprint_of(adapter), prompt[:-1]
        if self._store.find(fingerprint, prefix) < length + BLOCK:
            return None
        cache = self._make_cache()
        for arrays in self._store.load(fingerprint, prefix):
            cache.extend(arrays, BLOCK)
        mx.eval(cache.arrays)
        return cache if cache.lengths and cache.lengths[0] > length else None

    def put(self, tokens: Sequence[int], adapter: str | None, cache: ModelCache) -> None:
        """Queue the KV cache of one sequence to be written later."""
        window = cache.options.window
        if len(tokens) >= MIN_TOKENS and (window is None or len(tokens) <= window):
            self._queue.append((list(tokens), adapter, cache))

    def write_one(self) -> bool:
        """Write the next queued sequence; return whether there was one."""
        if not self._queue:
            return False
        tokens, adapter, cache = self._queue.popleft()
        self._store.save(self._fingerprint_of(adapter), tokens, cache.block)
        return True

    def _fingerprint_of(self, adapter: str | None) -> str:
        if adapter not in self._fingerprints:
            self._fingerprints[adapter] = self._fingerprint(adapter)
        return self._fingerprints[adapter]
