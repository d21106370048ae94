"""The prefix cache in memory: KV caches of prompts and answers, found again by their longest common prefix."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..kv_cache import ModelCache

# Running fewer tokens than this is faster than copying their KV cache.
MIN_PREFIX = 16


@dataclass(eq=False)
class CachedPrefix:
    """Tokens (n,) and their KV cache, for one adapter (None: the base)."""

    tokens: np.ndarray
    adapter: str | None
    cache: ModelCache

    @property
    def nbytes(self) -> int:
        """Bytes that the prefix holds."""
        return self.cache.nbytes


class PrefixCache:
    """Cached prefixes under a budget of bytes; the least recently used is evicted first."""

    def __init__(self, budget_bytes: int) -> None:
        self.budget_bytes = budget_bytes
        self._prefixes: list[CachedPrefix] = []

    @property
    def nbytes(self) -> int:
        """Bytes that all prefixes hold."""
        return sum(prefix.nbytes for prefix in self._prefixes)

    def __len__(self) -> int:
        return len(self._prefixes)

    def find(self, tokens: Sequence[int], adapter: str | None) -> ModelCache | None:
        """Return a copy of the longest cached prefix of `tokens`, the last token always left out; None without one."""
        prompt = np.asarray(tokens[:-1], np.int32)
        best, length = None, MIN_PREFIX - 1
        for prefix in self._prefixes:
            n = common_length(prefix.tokens, prompt) if prefix.adapter == adapter else 0
            if n > length and prefix.cache.can_trim(0, n):
                best, length = prefix, n
        if best is None:
            return None
        self._prefixes.remove(best)
        self._prefixes.append(best)
        cache = best.cache.copy()
        cache.trim(length)
        return cache

    def put(self, tokens: Sequence[int], adapter: str | None, cache: ModelCache) -> None:
        """Add the KV cache of as many tokens as it is long, in place of the prefixes that it extends."""
        prefix = CachedPrefix(np.asarray(tokens, np.int32)[: cache.lengths[0]], adapter, cache)
        if len(prefix.tokens) < MIN_PREFIX or prefix.nbytes > self.budget_bytes:
            return
        for known in [known for known in self._prefixes if known.adapter == adapter]:
            n = common_length(known.tokens, prefix.tokens)
            if n == len(prefix.tokens) and known.cache.can_trim(0, n):
                return
            if n == len(known.tokens) and prefix.cache.can_trim(0, n):
                self._prefixes.remove(known)
        self._prefixes.append(prefix)
        self.shrink(self.budget_bytes)

    def shrink(self, budget_bytes: int) -> None:
        """Evict prefixes until no more than this is held."""
        held = self.nbytes
        while self._prefixes and held > budget_bytes:
            held -= self._prefixes.pop(0).nbytes


def common_length(a: np.ndarray, b: np.ndarray) -> int:
    """Return how many first elements are equal."""
    n = min(len(a), len(b))
    differing = np.flatnonzero(a[:n] != b[:n])
    return int(differing[0]) if len(differing) else n
