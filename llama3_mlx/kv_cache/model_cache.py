"""The KV caches of all layers, and the length of each sequence in them."""

from collections.abc import Iterator, Sequence
from typing import Protocol, Self

import mlx.core as mx

from .buffer import Buffer
from .options import CacheOptions
from .plain import PlainLayer
from .quantized import QuantizedLayer
from .sliding_window import Rotate, SlidingWindowLayer
from .step import Step, make_step


class LayerCache(Protocol):
    """What every kind of KV cache implements for one layer; the sequences' lengths are the ModelCache's.

    A sequence is a row of the layer's buffers.
    """

    def attend(self, queries: mx.array, keys: mx.array, values: mx.array, *, scale: float, step: Step) -> mx.array:
        """Append keys and values (B, K, L, head_dim); return attention (B, H, L, head_dim)."""

    @property
    def buffers(self) -> list[Buffer]:
        """All buffers, in a fixed order."""

    def max_step(self, length: int) -> int | None:
        """Return how many tokens may be run at once after `length` positions; None for any number."""

    def row(self, row: int, start: int, stop: int) -> list[mx.array]:
        """Return the cached arrays of the positions from `start` to `stop` of one row."""

    def extend(self, parts: Sequence[mx.array], start: int) -> None:
        """Put what `row` gave of another cache at `start` of the only row."""

    def put_row(self, row: int, source: Self, length: int) -> None:
        """Copy the only row of another cache, `length` positions, into `row`."""

    def copy(self) -> Self:
        """Return an independent cache of the same content; arrays are shared until either one writes."""

    def positions_for(self, length: int) -> list[int]:
        """Return the positions that each buffer needs for rows of `length`."""


class ModelCache:
    """One cache a layer, for one or several sequences of their own lengths.

    A forward pass gets its positions from `step` and calls `advance` at its end. New tokens are appended to each
    sequence.
    """

    def __init__(self, layers: Sequence[LayerCache], options: CacheOptions) -> None:
        self.layers, self.options = list(layers), options
        self.lengths: list[int] = []

    def step(self, n_sequences: int, n_new: int) -> Step:
        """Return the positions of `n_new` tokens of each sequence; an empty cache takes any number of sequences."""
        if not self.lengths:
            self.lengths = [0] * n_sequences
        assert n_sequences == len(self.lengths), f"{len(self.lengths)} sequences in the cache, not {n_sequences}"
        return make_step(self.lengths, n_new)

    def advance(self, n_new: int) -> None:
        """Count `n_new` more positions in every sequence."""
        self.lengths = [length + n_new for length in self.lengths]

    def max_step(self) -> int | None:
        """Return how many tokens may be run at once now; None for any number."""
        return self.layers[0].max_step(max(self.lengths, default=0)) if self.layers else None

    def can_trim(self, index: int, length: int) -> bool:
        """Return whether `trim` can bring a sequence back to `length`."""
        window = self.options.window
        return length >= self.lengths[index] or window is None or self.lengths[index] <= window

    def trim(self, length: int, index: int = 0) -> None:
        """Drop the positions of a sequence from `length` on."""
        assert self.can_trim(index, length), "positions that fell out of the window are lost"
        self.lengths[index] = min(self.lengths[index], length)

    def append(self, other: "ModelCache") -> None:
        """Add the only sequence of another cache; an empty cache takes over the other's arrays."""
        (length,) = other.lengths
        if not self.lengths:
            self.layers, self.lengths = [layer.copy() for layer in other.layers], [length]
            return
        for layer, source in zip(self.layers, other.layers, strict=True):
            layer.put_row(len(self.lengths), source, length)
        self.lengths.append(length)

    def pop(self, index: int) -> None:
        """Remove a sequence; the last one moves into its row."""
        last = len(self.lengths) - 1
        if not last:
            self.clear()
            return
        self.lengths[index] = self.lengths[last]
        self.lengths.pop()
        for layer in self.layers:
            for buffer, positions in zip(layer.buffers, layer.positions_for(max(self.lengths)), strict=True):
                if index != last:
                    buffer.move(last, index)
                buffer.shrink(last, positions)

    def clear(self) -> None:
        """Remove all sequences and free their memory."""
        self.lengths = []
        for layer in self.layers:
            for buffer in layer.buffers:
                buffer.arrays = []

    def take(self, index: int) -> "ModelCache":
        """Return a copy of one sequence, without the capacity of the others.

        It is evaluated at once: a lazy copy would keep the arrays of the whole batch alive.
        """
        twin = self.copy()
        length = self.lengths[index]
        if len(self.lengths) > 1:
            for layer in twin.layers:
                for buffer, positions in zip(layer.buffers, layer.positions_for(length), strict=True):
                    buffer.arrays = [mx.contiguous(a[index : index + 1, :, :positions]) for a in buffer.arrays]
        mx.async_eval(twin.arrays)
        twin.lengths = [length]
        return twin

    def copy(self) -> "ModelCache":
        """Return an independent cache of the same content; arrays are shared until either one writes."""
        twin = ModelCache([layer.copy() for layer in self.layers], self.options)
        twin.lengths = list(self.lengths)
        return twin

    def block(self, start: int, stop: int) -> list[mx.array]:
        """Return the arrays of the only sequence's positions from `start` to `stop`, layer after layer."""
        return [array for layer in self.layers for array in layer.row(0, start, stop)]

    def extend(self, arrays: Sequence[mx.array], n: int) -> None:
        """Append what `block` gave for `n` positions to the only sequence."""
        start = self.lengths[0] if self.lengths else 0
        per_layer = len(arrays) // len(self.layers)
        for index, layer in enumerate(self.layers):
            layer.extend(arrays[index * per_layer : (index + 1) * per_layer], start)
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
        assert rotate is not None, "a window rotates its sinks by the model's rotary embedding"
        layers = [SlidingWindowLayer(options.window, options.sinks, rotate) for _ in range(n_layers)]
    elif options.kv_bits is not None:
        group_size = options.group_size(head_dim)
        layers = [QuantizedLayer(options.kv_bits, group_size, options.kv_start) for _ in range(n_layers)]
    else:
        layers = [PlainLayer() for _ in range(n_layers)]
    return ModelCache(layers, options)
