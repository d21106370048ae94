"""The caches of all layers, and how long each row of them is."""

from collections.abc import Iterator, Sequence
from typing import Protocol

import mlx.core as mx

from .buffer import Buffer
from .options import CacheOptions
from .plain import PlainLayer
from .quantized import QuantizedLayer
from .sliding_window import Rotate, SlidingWindowLayer
from .step import Step, make_step


class LayerCache(Protocol):
    """What every cache kind gives for one layer; rows and lengths are the ModelCache's."""

    def attend(self, queries: mx.array, keys: mx.array, values: mx.array, *, scale: float, step: Step) -> mx.array:
        """Append keys and values (B, K, L, head_dim); return attention (B, H, L, head_dim)."""

    @property
    def buffers(self) -> list[Buffer]:
        """All buffers, in a fixed order."""

    def row(self, row: int, start: int, stop: int) -> list[mx.array]:
        """Return what is kept of some positions of one row."""

    def extend(self, parts: Sequence[mx.array], start: int) -> None:
        """Put what `row` gave of another cache at `start` of the only row."""

    def room(self, length: int) -> list[int]:
        """Return the positions that each buffer needs for rows of `length`."""


class ModelCache:
    """One cache a layer, for one or several rows of their own lengths.

    A forward pass asks for a `step`, and `advance`s when it is through. New tokens stand behind each row's last one.
    """

    def __init__(self, layers: Sequence[LayerCache], options: CacheOptions) -> None:
        self.layers, self.options = list(layers), options
        self.lengths: list[int] = []

    def step(self, rows: int, n_new: int) -> Step:
        """Return where `n_new` tokens of each row stand; an empty cache takes any number of rows."""
        if not self.lengths:
            self.lengths = [0] * rows
        assert rows == len(self.lengths), f"the cache has {len(self.lengths)} rows, the tokens {rows}"
        return make_step(self.lengths, n_new)

    def advance(self, n_new: int) -> None:
        """Count `n_new` more positions in every row."""
        self.lengths = [length + n_new for length in self.lengths]

    def longest_step(self) -> int | None:
        """Return how many tokens may be run at once now; None for any number."""
        first = self.layers[0] if self.layers else None
        return first.longest(max(self.lengths, default=0)) if isinstance(first, SlidingWindowLayer) else None

    def can_trim(self, row: int, length: int) -> bool:
        """Return whether `trim` can bring the row back to `length`."""
        window = self.options.window
        return length >= self.lengths[row] or window is None or self.lengths[row] <= window

    def trim(self, length: int, row: int = 0) -> None:
        """Forget the positions of a row from `length` on."""
        assert self.can_trim(row, length), "positions that fell out of the window can't come back"
        self.lengths[row] = min(self.lengths[row], length)

    def append(self, other: "ModelCache") -> None:
        """Add the only row of another cache; a cache without rows takes over the other's arrays."""
        (length,) = other.lengths
        if not self.lengths:
            self.layers, self.lengths = [layer.copy() for layer in other.layers], [length]  # type: ignore[attr-defined]
            return
        for layer, source in zip(self.layers, other.layers, strict=True):
            layer.put_row(len(self.lengths), source, length)  # type: ignore[attr-defined]
        self.lengths.append(length)

    def pop(self, row: int) -> None:
        """Take a row out: the last row moves into its place."""
        last = len(self.lengths) - 1
        if not last:
            self.clear()
            return
        self.lengths[row] = self.lengths[last]
        self.lengths.pop()
        for layer in self.layers:
            for buffer, positions in zip(layer.buffers, layer.room(max(self.lengths)), strict=True):
                if row != last:
                    buffer.move(last, row)
                buffer.shrink(last, positions)

    def clear(self) -> None:
        """Forget everything and give the memory back."""
        self.lengths = []
        for layer in self.layers:
            for buffer in layer.buffers:
                buffer.arrays = []

    def take(self, row: int) -> "ModelCache":
        """Return a copy of one row, without the room of the others; computed at once, or it would keep them alive."""
        twin = self.copy()
        length = self.lengths[row]
        if len(self.lengths) > 1:
            for layer in twin.layers:
                for buffer, positions in zip(layer.buffers, layer.room(length), strict=True):
                    buffer.arrays = [mx.contiguous(a[row : row + 1, :, :positions]) for a in buffer.arrays]
        mx.async_eval(twin.arrays)
        twin.lengths = [length]
        return twin

    def copy(self) -> "ModelCache":
        """Return an independent cache of the same content; arrays are shared until either one writes."""
        twin = ModelCache([layer.copy() for layer in self.layers], self.options)  # type: ignore[attr-defined]
        twin.lengths = list(self.lengths)
        return twin

    def block(self, start: int, stop: int) -> list[mx.array]:
        """Return the arrays of the only row's positions from `start` to `stop`, layer after layer."""
        return [array for layer in self.layers for array in layer.row(0, start, stop)]

    def extend(self, arrays: Sequence[mx.array], n: int) -> None:
        """Append what `block` gave for `n` positions behind the only row."""
        start = self.lengths[0] if self.lengths else 0
        per_layer = len(arrays) // len(self.layers)
        for at, layer in enumerate(self.layers):
            layer.extend(arrays[at * per_layer : (at + 1) * per_layer], start)
        self.lengths = [start + n]

    @property
    def arrays(self) -> list[mx.array]:
        """The arrays to evaluate before the cache is used from elsewhere or timed."""
        return [array for layer in self.layers for buffer in layer.buffers for array in buffer.arrays]

    @property
    def nbytes(self) -> int:
        """Allocated bytes."""
        return sum(array.nbytes for array in self.arrays)

    def __iter__(self) -> Iterator[LayerCache]:
        return iter(self.layers)

    def __len__(self) -> int:
        return len(self.layers)


def make_cache(
    n_layers: int, options: CacheOptions | None = None, *, head_dim: int = 64, rotate: Rotate | None = None
) -> ModelCache:
    """Return an empty cache of the chosen kind; `LlamaForCausalLM.make_cache` fills in what depends on the model.

    Quantized kinds need the model's `head_dim`, windows its `rotate(x, offset, scale)`.
    """
    options = options or CacheOptions()
    layers: list[LayerCache]
    if options.window is not None:
        assert rotate is not None, "a window turns its sinks by the model's rotary embedding"
        layers = [SlidingWindowLayer(options.window, options.sinks, rotate) for _ in range(n_layers)]
    elif options.kv_bits is not None:
        group_size = options.group_size(head_dim)
        layers = [QuantizedLayer(options.kv_bits, group_size, options.kv_start) for _ in range(n_layers)]
    else:
        layers = [PlainLayer() for _ in range(n_layers)]
    return ModelCache(layers, options)
