"""The plain KV cache of one layer: every position in the model's dtype.

Here the forward pass of model/transformer.py continues: `Attention` projects and rotates, and hands queries, keys and
values to `attend`, which appends keys and values to the cache and computes attention over all of it.
"""

from collections.abc import Sequence

import mlx.core as mx

from .buffer import Buffer
from .step import Step


class PlainLayer:
    """Keys and values of one layer, position p in slot p."""

    def __init__(self) -> None:
        self.buffer = Buffer()

    def attend(self, queries: mx.array, keys: mx.array, values: mx.array, *, scale: float, step: Step) -> mx.array:
        """Append keys and values (B, K, L, head_dim); return attention (B, H, L, head_dim) over all positions."""
        if step.slots is None:
            self.buffer.write(step.first, (keys, values))
        else:
            self.buffer.write_at(step.slots, step.last, (keys, values))
        keys, values = self.buffer.read(step.rows, step.last + 1)
        return mx.fast.scaled_dot_product_attention(queries, keys, values, scale=scale, mask=step.mask)

    def max_step(self, length: int) -> int | None:
        """Any number of tokens may be run at once."""
        return None

    @property
    def buffers(self) -> list[Buffer]:
        """All buffers, in a fixed order."""
        return [self.buffer]

    def row(self, row: int, start: int, stop: int) -> list[mx.array]:
        """Return the keys and values of the positions from `start` to `stop` of one row, (1, K, n, width) each."""
        return [array[row : row + 1, :, start:stop] for array in self.buffer.arrays]

    def extend(self, parts: Sequence[mx.array], start: int) -> None:
        """Put what `row` gave of another cache at `start` of the only row."""
        self.buffer.write(start, parts)

    def put_row(self, row: int, source: "PlainLayer", length: int) -> None:
        """Copy the only row of another cache, `length` positions, into `row`."""
        self.buffer.put_row(row, source.row(0, 0, length))

    def copy(self) -> "PlainLayer":
        """Return an independent cache of the same content."""
        twin = PlainLayer()
        twin.buffer = self.buffer.copy()
        return twin

    def positions_for(self, length: int) -> list[int]:
        """Return the positions that each buffer needs for rows of `length`."""
        return [length]
