"""The KV cache of one layer in 8 or 4 bits, from a chosen position on.

The first `start` positions stay in the model's dtype. A decode step multiplies by the packed values directly, which
reads a half or a quarter of the bytes; a long step dequantizes one layer at a time and uses the fused attention, so
that no matrix of scores is built.
"""

from collections.abc import Sequence

import mlx.core as mx

from .buffer import Buffer
from .step import Step

# For up to this many new positions the matrix of scores is small enough to be materialized.
_MAX_PACKED_STEP = 16


class QuantizedLayer:
    """Keys and values of one layer: the first `start` positions in `dense`, the others in `packed`."""

    def __init__(self, bits: int, group_size: int, start: int) -> None:
        self.bits, self.group_size, self.start = bits, group_size, start
        self.dense, self.packed = Buffer(), Buffer()
        # Where rows have different lengths, the new positions of one may belong to the dense buffer while another's
        # belong to the packed one. A scatter writes something for every row, so each buffer has a trash slot that no
        # read touches (slot `start` of `dense`, slot 0 of `packed`) for the rows that have nothing to write to it.
        # The alternative, a scatter of chosen rows, would need their indices on the host in every layer.
        self._skip = 1 if start else 0

    def attend(self, queries: mx.array, keys: mx.array, values: mx.array, *, scale: float, step: Step) -> mx.array:
        """Append keys and values (B, K, L, head_dim); return attention (B, H, L, head_dim) over all positions."""
        if step.slots is None:
            self._write(step.first, keys, values)
        else:
            self._write_at(step, keys, values)
        if step.n_new <= _MAX_PACKED_STEP:
            return self._attend_packed(queries, scale, step)
        dense, packed = self._read(step)
        unpacked = [self._unpacked(packed[:3], keys.dtype), self._unpacked(packed[3:], keys.dtype)] if packed else []
        keys, values = (mx.concatenate([*dense[at : at + 1], *unpacked[at : at + 1]], axis=2) for at in range(2))
        return mx.fast.scaled_dot_product_attention(queries, keys, values, scale=scale, mask=step.mask)

    def _write(self, start: int, keys: mx.array, values: mx.array) -> None:
        cut = min(max(self.start - start, 0), keys.shape[2])
        if cut:
            self.dense.write(start, (keys[:, :, :cut], values[:, :, :cut]))
        if cut < keys.shape[2]:
            at = start + cut - self.start + self._skip
            self.packed.write(at, [*self._quantized(keys[:, :, cut:]), *self._quantized(values[:, :, cut:])])

    def _write_at(self, step: Step, keys: mx.array, values: mx.array) -> None:
        assert step.slots is not None, "rows differ"
        if self.start:
            self.dense.write_at(mx.minimum(step.slots, self.start), self.start, (keys, values))
        if step.last >= self.start:
            slots = mx.maximum(step.slots - self.start + self._skip, 0)
            parts = [*self._quantized(keys), *self._quantized(values)]
            self.packed.write_at(slots, step.last - self.start + self._skip, parts)

    def _read(self, step: Step) -> tuple[list[mx.array], list[mx.array]]:
        stop = step.last + 1
        dense = self.dense.read(step.rows, min(stop, self.start)) if self.start else []
        if stop <= self.start:
            return dense, []
        return dense, self.packed.read(step.rows, stop - self.start + self._skip, self._skip)

    def _attend_packed(self, queries: mx.array, scale: float, step: Step) -> mx.array:
        """Attention out of the packed values: scores of both buffers, one softmax, two products."""
        B, H, L, head_dim = queries.shape
        dense, packed = self._read(step)
        n_kv_heads = (dense or packed)[0].shape[1]
        queries = (queries * scale).reshape(B, n_kv_heads, -1, head_dim)
        scores = [queries @ dense[0].swapaxes(-1, -2)] if dense else []
        if packed:
            scores.append(self._product(queries, packed[:3], transpose=True))
        joint = mx.concatenate(scores, axis=-1) if len(scores) > 1 else scores[0]
        mask = step.mask
        if isinstance(mask, str):
            positions = mx.arange(step.last + 1)
            mask = positions <= (mx.arange(L) + step.first)[:, None]
        if mask is not None:
            joint = joint.reshape(B, n_kv_heads, H // n_kv_heads, L, -1)
            joint = mx.where(mask if mask.ndim == 2 else mask[:, :, None], joint, -mx.inf)
            joint = joint.reshape(B, n_kv_heads, -1, joint.shape[-1])
        weights = mx.softmax(joint, axis=-1, precise=True)
        cut = dense[0].shape[2] if dense else 0
        output = weights[..., :cut] @ dense[1] if dense else None
        if packed:
            rest = self._product(weights[..., cut:], packed[3:], transpose=False)
            output = rest if output is None else output + rest
        assert output is not None, "there is at least the new position"
        return output.reshape(B, H, L, head_dim)

    def _product(self, x: mx.array, parts: Sequence[mx.array], *, transpose: bool) -> mx.array:
        packed, scales, biases = parts
        return mx.quantized_matmul(
            x, packed, scales, biases, transpose=transpose, group_size=self.group_size, bits=self.bits
        )

    def _quantized(self, x: mx.array) -> Sequence[mx.array]:
        return mx.quantize(x, group_size=self.group_size, bits=self.bits)

    def _unpacked(self, parts: Sequence[mx.array], dtype: mx.Dtype) -> mx.array:
        packed, scales, biases = parts
        return mx.dequantize(packed, scales, biases, group_size=self.group_size, bits=self.bits).astype(dtype)

    def max_step(self, length: int) -> int | None:
        """Any number of tokens may be run at once."""
        return None

    @property
    def buffers(self) -> list[Buffer]:
        """All buffers, in a fixed order."""
        return [self.dense, self.packed]

    def row(self, row: int, start: int, stop: int) -> list[mx.array]:
        """Return the keys and values of the positions from `start` to `stop` of one row: dense, packed, or both."""
        parts = [a[row : row + 1, :, start : min(stop, self.start)] for a in self.dense.arrays if start < self.start]
        if stop > self.start:
            a, b = max(start - self.start, 0) + self._skip, stop - self.start + self._skip
            parts += [array[row : row + 1, :, a:b] for array in self.packed.arrays]
        return parts

    def extend(self, parts: Sequence[mx.array], start: int) -> None:
        """Put what `row` gave of another cache at `start` of the only row."""
        if start < self.start:
            self.dense.write(start, parts[:2])
            parts = parts[2:]
        if parts:
            self.packed.write(max(start - self.start, 0) + self._skip, parts)

    def put_row(self, row: int, source: "QuantizedLayer", length: int) -> None:
        """Copy the only row of another cache, `length` positions, into `row`."""
        if self.start:
            self.dense.put_row(row, source.dense.read(1, min(length, self.start)))
        if length > self.start:
            self.packed.put_row(row, source.packed.read(1, length - self.start + self._skip))

    def copy(self) -> "QuantizedLayer":
        """Return an independent cache of the same content."""
        twin = QuantizedLayer(self.bits, self.group_size, self.start)
        twin.dense, twin.packed = self.dense.copy(), self.packed.copy()
        return twin

    def positions_for(self, length: int) -> list[int]:
        """Return the positions that each buffer needs for rows of `length`."""
        return [min(length, self.start + 1), max(0, length - self.start + self._skip)]
