"""The key/value cache of one sequence, or of several of equal length: allocated ahead, trimmable, copyable."""

import mlx.core as mx

STEP = 256


class KVCache:
    """Keys and values of one layer, (B, K, capacity, head_dim); capacity grows in multiples of STEP positions.

    Growth adds an eighth of the length, so that copying stays linear in the length and waste stays small.
    """

    def __init__(self) -> None:
        self.offset = 0
        self.keys: mx.array | None = None
        self.values: mx.array | None = None

    def update(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        """Append L new positions, (B, K, L, head_dim), and return all S of them, (B, K, S, head_dim)."""
        start, self.offset = self.offset, self.offset + keys.shape[2]
        self.reserve(self.offset, like=(keys, values))
        assert self.keys is not None and self.values is not None, "reserve allocates"
        self.keys[..., start : self.offset, :] = keys
        self.values[..., start : self.offset, :] = values
        return self.keys[..., : self.offset, :], self.values[..., : self.offset, :]

    def reserve(self, length: int, like: tuple[mx.array, mx.array]) -> None:
        """Make room for `length` positions of the shape and dtype of `like`."""
        if self.keys is not None and length <= self.keys.shape[2]:
            return
        capacity = -(-(length + length // 8) // STEP) * STEP
        self.keys, self.values = (
            _grown(old, new, capacity) for old, new in zip((self.keys, self.values), like, strict=True)
        )

    def mask(self, length: int) -> str | None:
        """Return the attention mask of `length` new positions: none for one, causal for more."""
        return None if length == 1 else "causal"

    def trim(self, length: int) -> None:
        """Forget all positions from `length` on."""
        self.offset = min(self.offset, length)

    def copy(self) -> "KVCache":
        """Return an independent cache of the same content; arrays are shared until either one writes."""
        twin = KVCache()
        twin.offset, twin.keys, twin.values = self.offset, self.keys, self.values
        if self.keys is not None and self.values is not None:
            twin.keys, twin.values = mx.array(self.keys), mx.array(self.values)
        return twin

    @property
    def arrays(self) -> list[mx.array]:
        """The arrays to evaluate before the cache is used from elsewhere or timed."""
        return [a for a in (self.keys, self.values) if a is not None]

    @property
    def nbytes(self) -> int:
        """Allocated bytes."""
        return sum(a.nbytes for a in self.arrays)


def make_cache(n_layers: int) -> list[KVCache]:
    """Return an empty cache for each layer."""
    return [KVCache() for _ in range(n_layers)]


def _grown(old: mx.array | None, new: mx.array, capacity: int) -> mx.array:
    if old is None:
        batch, n_kv_heads, _, head_dim = new.shape
        return mx.zeros((batch, n_kv_heads, capacity, head_dim), new.dtype)
    return mx.pad(old, [(0, 0), (0, 0), (0, capacity - old.shape[2]), (0, 0)])
