"""Prompts and answers whose keys and values are kept in memory, found again by their longest common beginning."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..kv_cache import ModelCache

# Fewer tokens than this are run again sooner than they are copied.
SHORTEST = 16


@dataclass(eq=False)
class CachedPrefix:
    """Tokens (n,) and the cache of them, for one adapter (None: the base)."""

    tokens: np.ndarray
    adapter: str | None
    cache: ModelCache

    @property
    def nbytes(self) -> int:
        """Bytes that the entry holds."""
        return self.cache.nbytes


class PrefixCache:
    """Entries under a budget of bytes; the least recently used goes first."""

    def __init__(self, budget_bytes: int) -> None:
        self.budget_bytes = budget_bytes
        self._entries: list[CachedPrefix] = []

    @property
    def nbytes(self) -> int:
        """Bytes that all entries hold."""
        return sum(entry.nbytes for entry in self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def find(self, tokens: Sequence[int], adapter: str | None) -> ModelCache | None:
        """Return a cache of the longest beginning of `tokens` that is known, the last token always left out."""
        wanted = np.asarray(tokens[:-1], np.int32)
        best, length = None, SHORTEST - 1
        for entry in self._entries:
            n = common_length(entry.tokens, wanted) if entry.adapter == adapter else 0
            if n > length and entry.cache.can_trim(0, n):
                best, length = entry, n
        if best is None:
            return None
        self._entries.remove(best)
        self._entries.append(best)
        cache = best.cache.copy()
        cache.trim(length)
        return cache

    def put(self, tokens: Sequence[int], adapter: str | None, cache: ModelCache) -> None:
        """Keep a cache of as many tokens as it is long; entries that it goes on from are replaced."""
        entry = CachedPrefix(np.asarray(tokens, np.int32)[: cache.lengths[0]], adapter, cache)
        if len(entry.tokens) < SHORTEST or entry.nbytes > self.budget_bytes:
            return
        for known in [known for known in self._entries if known.adapter == adapter]:
            n = common_length(known.tokens, entry.tokens)
            if n == len(entry.tokens) and known.cache.can_trim(0, n):
                return
            if n == len(known.tokens) and entry.cache.can_trim(0, n):
                self._entries.remove(known)
        self._entries.append(entry)
        self.shrink(self.budget_bytes)

    def shrink(self, budget_bytes: int) -> None:
        """Let entries go until no more than this is held."""
        held = self.nbytes
        while self._entries and held > budget_bytes:
            held -= self._entries.pop(0).nbytes

    def forget(self, adapter: str) -> None:
        """Let all entries of an adapter go."""
        self._entries = [entry for entry in self._entries if entry.adapter != adapter]


def common_length(a: np.ndarray, b: np.ndarray) -> int:
    """Return how many first elements are equal."""
    n = min(len(a), len(b))
    differing = np.flatnonzero(a[:n] != b[:n])
    return int(differing[0]) if len(differing) else n
