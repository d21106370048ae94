"""Which kind of KV cache a model runs with."""

from dataclasses import dataclass

from ..errors import RequestError
from ..settings import setting, validate


@dataclass(frozen=True, kw_only=True)
class CacheOptions:
    """Kind of the KV cache. Without settings it is plain: every position, in the model's dtype."""

    kv_bits: int | None = setting(None, "quantize the KV cache to this many bits", choices=(8, 4))
    kv_start: int = setting(0, "with --kv-bits: keep this many first positions unquantized", low=0)
    window: int | None = setting(
        None, "keep the first and the latest positions only, this many in all; longer texts continue", low=16
    )
    sinks: int = setting(4, "with --window: how many first positions stay", low=0)

    def __post_init__(self) -> None:
        validate(self)
        if self.window is not None and self.kv_bits is not None:
            raise RequestError("a window and a quantized KV cache can't be combined: choose one of them")
        if self.window is not None and self.sinks > self.window - 8:
            raise RequestError(f"sinks must be at most {self.window - 8}, 8 less than the window, not {self.sinks!r}")

    @property
    def label(self) -> str:
        """A short text that differs between kinds of different content."""
        if self.window is not None:
            return f"window{self.window}-{self.sinks}"
        return f"kv{self.kv_bits}-{self.kv_start}" if self.kv_bits else "plain"

    def group_size(self, head_dim: int) -> int:
        """Return the group size of quantized keys and values; raises RequestError where no size divides the heads.

        4 bits need small groups: on SmolLM2 groups of 32 have half the divergence of groups of 64.
        """
        for size in (64, 32) if self.kv_bits == 8 else (32,):
            if head_dim % size == 0:
                return size
        raise RequestError(f"heads of {head_dim} values can't be quantized: their size must be a multiple of 32")

    def bytes_per_token(self, n_layers: int, n_kv_heads: int, head_dim: int, float_bytes: int) -> float:
        """Return what one more position costs in all layers (a window costs nothing once it is full)."""
        values = 2 * n_layers * n_kv_heads * head_dim
        if self.kv_bits is None:
            return values * float_bytes
        return values * (self.kv_bits / 8 + 2 * float_bytes / self.group_size(head_dim))

    def cached_positions(self, tokens: int) -> int:
        """Return how many of `tokens` positions the cache holds."""
        return tokens if self.window is None else min(tokens, self.window)
