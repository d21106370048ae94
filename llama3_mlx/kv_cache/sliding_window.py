"""A KV cache of fixed size: the first positions (attention sinks) and the latest ones; a longer text continues.

The latest positions lie in a ring, rotated for where they really stand: attention sees only distances, and those in
the window are ones that the model knows. The sinks' distance would grow without end, so they are rotated anew to stand
at the beginning of the window. Source: https://arxiv.org/abs/2309.17453 (positions within the cache).
"""

from collections.abc import Callable, Sequence

import mlx.core as mx

from .buffer import Buffer
from .step import Step

# x (B, heads, L, head_dim), position of the first of L, factor of the positions -> rotated x
Rotate = Callable[[mx.array, int | mx.array, float], mx.array]
# Tokens that a full window takes at once.
_CHUNK = 256


class SlidingWindowLayer:
    """Keys and values of one layer. Position p is in slot p while p < window, then in the ring behind the sinks."""

    def __init__(self, window: int, sinks: int, rotate: Rotate) -> None:
        """`rotate(x, offset, scale)` is the model's rotary embedding of (B, heads, L, head_dim)."""
        self.window, self.sinks, self.rotate = window, sinks, rotate
        self.ring = window - sinks
        self.buffer = Buffer(max_positions=window)
        # The sinks' keys as they were first written; those in `buffer` move along with the window.
        self.first_keys = Buffer(max_positions=max(sinks, 1))

    def attend(self, queries: mx.array, keys: mx.array, values: mx.array, *, scale: float, step: Step) -> mx.array:
        """Append keys and values (B, K, L, head_dim); return attention (B, H, L, head_dim) over window and sinks."""
        self._keep_sinks(keys, step)
        if step.last < self.window:
            if step.slots is None:
                self.buffer.write(step.first, (keys, values))
            else:
                self.buffer.write_at(step.slots, step.last, (keys, values))
            keys, values = self.buffer.read(step.rows, step.last + 1)
            return mx.fast.scaled_dot_product_attention(queries, keys, values, scale=scale, mask=step.mask)
        if step.n_new == 1:
            return self._decode(queries, keys, values, scale, step)
        assert step.slots is None and step.first >= self.window, "a long step stops where the window is full"
        output = self._attend_ring(queries, keys, values, scale, step.first)
        n = min(step.n_new, self.ring)
        slots = self._slots(step.first + step.n_new - n + mx.arange(n, dtype=mx.int32))
        self.buffer.write_at(
            mx.broadcast_to(slots, (step.rows, n)), self.window - 1, (keys[:, :, -n:], values[:, :, -n:])
        )
        return output

    def _slots(self, positions: mx.array) -> mx.array:
        return mx.where(positions < self.window, positions, self.sinks + (positions - self.sinks) % self.ring)

    def _keep_sinks(self, keys: mx.array, step: Step) -> None:
        if step.first >= self.sinks:
            return
        if step.slots is None:
            self.first_keys.write(step.first, (keys[:, :, : self.sinks - step.first],))
            return
        # Rows beyond the sinks write the last sink's own value again.
        self.first_keys.reserve(step.rows, self.sinks, (keys,))
        for row, length in enumerate(step.lengths):
            if length < self.sinks:
                stop = min(self.sinks, length + step.n_new)
                self.first_keys.arrays[0][row : row + 1, :, length:stop] = keys[row : row + 1, :, : stop - length]

    def _decode(self, queries: mx.array, keys: mx.array, values: mx.array, scale: float, step: Step) -> mx.array:
        """One new token a row, at least one of them beyond the window.

        Attention doesn't depend on the order of keys in the ring.
        """
        positions = mx.array(step.lengths, mx.int32)
        self.buffer.write_at(self._slots(positions)[:, None], self.window - 1, (keys, values))
        if self.sinks:
            (first,) = self.first_keys.read(step.rows, self.sinks)
            B, K, s, head_dim = first.shape
            moved = mx.maximum(positions + 1 - self.window, 0)
            first = self.rotate(first.reshape(B, K * s, 1, head_dim), moved, 1.0).reshape(B, K, s, head_dim)
            self.buffer.arrays[0][:B, :, :s] = first
        keys, values = self.buffer.read(step.rows, self.window)
        full = all(length + 1 >= self.window for length in step.lengths)
        mask = None if full else (mx.arange(self.window) <= positions[:, None])[:, None, None]
        return mx.fast.scaled_dot_product_attention(queries, keys, values, scale=scale, mask=mask)

    def _attend_ring(self, queries: mx.array, keys: mx.array, values: mx.array, scale: float, first: int) -> mx.array:
        """Several new tokens beyond a full window: each attends to the sinks and its own last `ring` positions.

        Writing the new keys into the ring first, as a decode step does, would overwrite positions that the earlier of
        the new tokens still attend to. So the ring is unrolled into order of positions, the new keys are appended, and
        a band mask gives query i the `ring` positions that end with its own.

        For the sinks a query is window - 1 positions after the first of them, whatever its own position p: instead of
        rotating the sinks once for each query, the queries are rotated back by p - (window - 1).
        """
        B, H, L, head_dim = queries.shape
        s, oldest = self.sinks, self.sinks + (first - self.sinks) % self.ring
        old_keys, old_values = self.buffer.read(B, self.window)
        ring_keys = mx.concatenate([old_keys[:, :, oldest:], old_keys[:, :, s:oldest], keys], axis=2)
        ring_values = mx.concatenate([old_values[:, :, oldest:], old_values[:, :, s:oldest], values], axis=2)
        K = keys.shape[1]

        def grouped(x: mx.array) -> mx.array:
            return x.reshape(B, K, H // K, L, head_dim)

        positions, at = mx.arange(self.ring + L), mx.arange(L)[:, None]
        visible = (positions > at) & (positions <= at + self.ring)
        scores = mx.where(visible, grouped(queries * scale) @ ring_keys[:, :, None].swapaxes(-1, -2), -mx.inf)
        all_values = ring_values
        if s:
            (sink_keys,) = self.first_keys.read(B, s)
            near = self.rotate(queries * scale, first - self.window + 1, -1.0)
            scores = mx.concatenate([grouped(near) @ sink_keys[:, :, None].swapaxes(-1, -2), scores], axis=-1)
            all_values = mx.concatenate([old_values[:, :, :s], ring_values], axis=2)
        output = mx.softmax(scores, axis=-1, precise=True) @ all_values[:, :, None]
        return output.reshape(B, H, L, head_dim)

    def max_step(self, length: int) -> int | None:
        """Return how many tokens may be run at once: up to the full window, then a chunk."""
        return self.window - length if length < self.window else _CHUNK

    @property
    def buffers(self) -> list[Buffer]:
        """All buffers, in a fixed order."""
        return [self.buffer, self.first_keys]

    def row(self, row: int, start: int, stop: int) -> list[mx.array]:
        """Return keys and values of the positions from `start` to `stop` of one row that is shorter than the window."""
        assert stop <= self.window, "beyond the window the first positions are overwritten"
        return [array[row : row + 1, :, start:stop] for array in self.buffer.arrays]

    def extend(self, parts: Sequence[mx.array], start: int) -> None:
        """Put what `row` gave of another cache at `start` of the only row."""
        self.buffer.write(start, parts)
        if start < self.sinks:
            self.first_keys.write(start, (parts[0][:, :, : self.sinks - start],))

    def put_row(self, row: int, source: "SlidingWindowLayer", length: int) -> None:
        """Copy the only row of another cache, `length` positions, into `row`."""
        self.buffer.put_row(row, source.buffer.read(1, min(length, self.window)))
        if self.sinks:
            self.first_keys.put_row(row, source.first_keys.read(1, min(length, self.sinks)))

    def copy(self) -> "SlidingWindowLayer":
        """Return an independent cache of the same content."""
        twin = SlidingWindowLayer(self.window, self.sinks, self.rotate)
        twin.buffer, twin.first_keys = self.buffer.copy(), self.first_keys.copy()
        return twin

    def positions_for(self, length: int) -> list[int]:
        """Return the positions that each buffer needs for rows of `length`."""
        return [min(length, self.window), min(length, self.sinks)]
