"""The prefix cache in memory: KV caches of prompts and answers, found again by their longest common prefix."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..kv_cache import ModelCache

# Running fewer tokens than this is faster than copying their KV cache.
MIN_PREFIX = 16


@dataclass(frozen=True, eq=False)
class HeadEntries:
    """A draft head's cache of a prefix: an entry for each position from `start` on but the last.

    An entry is made of a position's hidden states and the token after it: the last token of a prefix has none.
    """

    cache: ModelCache
    start: int = 0

    def of(self, length: int) -> "HeadEntries | None":
        """Return those of the first `length` tokens, a copy; None if there is none."""
        if length - 1 <= self.start:
            return None
        cache = self.cache.copy()
        cache.trim(length - 1 - self.start)
        return HeadEntries(cache, self.start)


@dataclass(frozen=True, eq=False)
class FoundPrefix:
    """The KV cache of a prompt's first tokens, and the entries of the draft head at the same positions if it has them.

    Where it has, the prefix is a token shorter: the model has to run that token, whose hidden states the head needs.
    """

    cache: ModelCache
    head: HeadEntries | None = None


@dataclass(eq=False)
class CachedPrefix:
    """Tokens (n,) and their KV cache, for one adapter (None: the base); those of a draft head if there is one."""

    tokens: np.ndarray
    adapter: str | None
    cache: ModelCache
    head: HeadEntries | None = None

    @property
    def nbytes(self) -> int:
        """Bytes that the prefix holds."""
        return self.cache.nbytes + (0 if self.head is None else self.head.cache.nbytes)


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

    def find(self, tokens: Sequence[int], adapter: str | None, *, with_head: bool = False) -> FoundPrefix | None:
        """Return a copy of the longest cached prefix of `tokens`, the last token always left out; None without one.

        `with_head` asks for the draft head's entries too.
        """
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
        return trimmed(best.cache.copy(), best.head if with_head else None, length)

    def put(
        self, tokens: Sequence[int], adapter: str | None, cache: ModelCache, head: HeadEntries | None = None
    ) -> None:
        """Add the KV cache of as many tokens as it is long, in place of the prefixes that it extends."""
        prefix = CachedPrefix(np.asarray(tokens, np.int32)[: cache.lengths[0]], adapter, cache, head)
        if len(prefix.tokens) < MIN_PREFIX or prefix.nbytes > self.budget_bytes:
            return
        for known in [known for known in self._prefixes if known.adapter == adapter]:
            n = common_length(known.tokens, prefix.tokens)
            if n == len(prefix.tokens) and known.cache.can_trim(0, n) and (known.head or not head):
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


def trimmed(cache: ModelCache, head: HeadEntries | None, length: int) -> FoundPrefix:
    """Return a prefix of `length` tokens, given a cache and a head's entries of at least as many."""
    entries = head.of(length) if head is not None and cache.can_trim(0, length - 1) else None
    cache.trim(length if entries is None else length - 1)
    return FoundPrefix(cache, entries)


def common_length(a: np.ndarray, b: np.ndarray) -> int:
    """Return how many first elements are equal."""
    n = min(len(a), len(b))
    differing = np.flatnonzero(a[:n] != b[:n])
    return int(differing[0]) if len(differing) else n
