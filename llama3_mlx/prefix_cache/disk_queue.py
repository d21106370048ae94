"""The prefix cache on disk as the engine uses it: read when a prompt is admitted, written when the engine is idle."""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import mlx.core as mx

from ..kv_cache import ModelCache
from .disk import BLOCK, BlockStore
from .memory import FoundPrefix, HeadEntries, trimmed

# Running fewer tokens than this costs less than writing and reading their blocks.
MIN_TOKENS = 2 * BLOCK
_MAX_QUEUED = 8


@dataclass(frozen=True)
class HeadBlocks:
    """Blocks of a draft head's entries, each beside one of the model's: what follows from the tokens up to its end.

    They are files of their own, so that a prefix is of use without them, and to a model with another head.
    """

    store: BlockStore
    make_cache: Callable[[], ModelCache]
    fingerprint: str

    def load(self, fingerprint: str, tokens: Sequence[int]) -> HeadEntries | None:
        """Return the entries of whole blocks of tokens; None if one is missing. `fingerprint` is the model's."""
        blocks = self.store.load(self._key(fingerprint), tokens)
        if len(blocks) * BLOCK < len(tokens) or not blocks:
            return None
        cache = self.make_cache()
        for arrays in blocks:
            cache.extend(arrays, arrays[0].shape[2])
        return HeadEntries(cache)

    def save(self, fingerprint: str, tokens: Sequence[int], entries: HeadEntries) -> None:
        """Write the blocks that aren't there yet; entries that begin behind the first token can't be found again."""
        if not entries.start:
            cache = entries.cache
            self.store.save(
                self._key(fingerprint), tokens, lambda start, stop: cache.block(max(0, start - 1), stop - 1)
            )

    def _key(self, fingerprint: str) -> str:
        return f"{fingerprint} {self.fingerprint}"


class DiskPrefixCache:
    """Blocks of one model; `fingerprint` names what its KV cache depends on, for an adapter or the base."""

    def __init__(
        self,
        store: BlockStore,
        make_cache: Callable[[], ModelCache],
        fingerprint: Callable[[str | None], str],
        head: HeadBlocks | None = None,
    ) -> None:
        self._store, self._make_cache, self._fingerprint, self._head = store, make_cache, fingerprint, head
        self._fingerprints: dict[str | None, str] = {}
        self._queue: deque[tuple[list[int], str | None, ModelCache, HeadEntries | None]] = deque(maxlen=_MAX_QUEUED)

    def find(
        self, prompt: Sequence[int], adapter: str | None, length: int, *, with_head: bool = False
    ) -> FoundPrefix | None:
        """Return a KV cache of at least a block more of the prompt than `length` tokens, if the disk has it.

        `with_head` asks for the draft head's entries too.
        """
        if len(prompt) <= BLOCK:
            return None
        fingerprint, prefix = self._fingerprint_of(adapter), prompt[:-1]
        if self._store.find(fingerprint, prefix) < length + BLOCK:
            return None
        cache = self._make_cache()
        self.fill(cache, adapter, prefix)
        if not cache.lengths or cache.lengths[0] <= length:
            return None
        n = cache.lengths[0]
        entries = self._head.load(fingerprint, prefix[:n]) if self._head is not None and with_head else None
        return trimmed(cache, entries, n)

    def fill(self, cache: ModelCache, adapter: str | None, tokens: Sequence[int]) -> None:
        """Read the leading blocks of the tokens that are on disk into an empty cache."""
        for arrays in self._store.load(self._fingerprint_of(adapter), tokens):
            cache.extend(arrays, BLOCK)
        mx.eval(cache.arrays)

    def put(
        self, tokens: Sequence[int], adapter: str | None, cache: ModelCache, head: HeadEntries | None = None
    ) -> None:
        """Queue the KV cache of one sequence to be written later."""
        window = cache.options.window
        if len(tokens) >= MIN_TOKENS and (window is None or len(tokens) <= window):
            self._queue.append((list(tokens), adapter, cache, head))

    def write_one(self) -> bool:
        """Write the next queued sequence; return whether there was one."""
        if not self._queue:
            return False
        tokens, adapter, cache, head = self._queue.popleft()
        self.write(cache, adapter, tokens)
        if self._head is not None and head is not None:
            self._head.save(self._fingerprint_of(adapter), tokens, head)
        return True

    def write(self, cache: ModelCache, adapter: str | None, tokens: Sequence[int]) -> None:
        """Write the blocks of a cache's only sequence, of these tokens, that aren't on disk."""
        self._store.save(self._fingerprint_of(adapter), tokens, cache.block)

    def _fingerprint_of(self, adapter: str | None) -> str:
        if adapter not in self._fingerprints:
            self._fingerprints[adapter] = self._fingerprint(adapter)
        return self._fingerprints[adapter]
