"""The prefix cache on disk of a model on several processes: each keeps its part, and a prefix is what all of them have.

A part belongs to one share: those of another split, node count or rank are never taken for it.
"""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import mlx.core as mx

from ..kv_cache import CacheOptions, ModelCache
from ..library.home import prefix_cache_bytes, prefix_folder
from ..prefix_cache.disk import BlockStore, model_fingerprint
from ..prefix_cache.disk_queue import DiskPrefixCache, HeadBlocks
from .leader import Leader
from .mirrored_cache import MirroredCache
from .shares import Share


def part_label(options: CacheOptions, share: Share) -> str:
    """Return a text that differs between parts of different content: the kind of KV cache and what the share holds."""
    return f"{options.label} {share}"


class LeaderPrefixes(DiskPrefixCache):
    """Rank 0's part, which speaks for all: what is read or written there, the followers read or write, too."""

    def __init__(
        self,
        store: BlockStore,
        make_cache: Callable[[], ModelCache],
        fingerprint: Callable[[str | None], str],
        leader: Leader,
        head: HeadBlocks | None = None,
    ) -> None:
        """`head` are the blocks of a draft head, which runs here alone."""
        super().__init__(store, make_cache, fingerprint, head)
        self._leader = leader

    def fill(self, cache: ModelCache, adapter: str | None, tokens: Sequence[int]) -> None:
        """Read as many leading tokens as all processes have; none is a miss, whoever lacks them."""
        lengths = self._with_others("load_prefix", cache, adapter, tokens, super().fill)
        shortest = min(cache.lengths[0] if cache.lengths else 0, *lengths)
        if shortest:
            cache.trim(shortest)
        else:
            cache.clear()

    def write(self, cache: ModelCache, adapter: str | None, tokens: Sequence[int]) -> None:
        """Write a sequence's blocks, each process its part."""
        self._with_others("save_prefix", cache, adapter, tokens, super().write)

    def _with_others(
        self,
        what: str,
        cache: ModelCache,
        adapter: str | None,
        tokens: Sequence[int],
        own: Callable[[ModelCache, str | None, Sequence[int]], None],
    ) -> list[int]:
        """Have the followers do something with their parts while it is done here; return their lengths."""
        assert isinstance(cache, MirroredCache), "the followers have their parts of it"
        request = {"do": what, "cache": cache.number, "adapter": adapter, "tokens": list(tokens)}
        self._leader.tell(request)
        try:
            own(cache, adapter, tokens)
        finally:
            answers = self._leader.answers()
        return [answer.get("length", 0) for answer in answers.values()]


class PrefixParts:
    """A follower's part of the prefixes on disk."""

    def __init__(self, folder: Path, share: Share, dtype: mx.Dtype) -> None:
        """`dtype` is that of hidden states."""
        self._folder, self._share, self._dtype = folder, share, dtype
        self.adapters: dict[str, Path] = {}
        """The folders of the adapters that are loaded."""
        self._kept: dict[str, DiskPrefixCache] = {}

    def fill(self, cache: ModelCache, adapter: str | None, tokens: Sequence[int]) -> None:
        """Read the leading tokens that are here into an empty cache."""
        kept = self._of(cache.options)
        if kept is not None:
            kept.fill(cache, adapter, tokens)

    def write(self, cache: ModelCache, adapter: str | None, tokens: Sequence[int]) -> None:
        """Write a cache's only sequence."""
        kept = self._of(cache.options)
        if kept is not None:
            kept.write(cache, adapter, tokens)

    def _of(self, options: CacheOptions) -> DiskPrefixCache | None:
        """Return this machine's blocks for a kind of KV cache, None where they are switched off."""
        limit, label = prefix_cache_bytes(), part_label(options, self._share)
        if not limit:
            return None
        if label not in self._kept:
            store = BlockStore(prefix_folder(), limit, model=self._folder.name)
            self._kept[label] = DiskPrefixCache(store, _no_cache, partial(self._fingerprint, label))
        return self._kept[label]

    def _fingerprint(self, label: str, adapter: str | None) -> str:
        path = None if adapter is None else self.adapters[adapter]
        return model_fingerprint(self._folder, dtype=str(self._dtype), cache_kind=label, adapter=path)


def _no_cache() -> ModelCache:
    raise AssertionError("caches are made as the leader says")
