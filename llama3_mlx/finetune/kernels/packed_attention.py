"""Attention within the examples of packed rows: causal, block-diagonal, and computed block by block.

Several examples lie one after another in a row, and a token sees those before it in its own example only. Rotary
positions run on through the row; that changes nothing, since the score of two tokens depends on their distance alone.

Queries go a block at a time over the keys that they can reach: those up to the block's end, and no further back than
the longest example is long, or on the CPU than where the block's first example begins. The backward pass makes a
block's scores again from what was kept, queries, keys, values and the output with its normalizer; no (L, L) matrix
outlives its block.
Source of the backward pass: https://arxiv.org/abs/2205.14135, appendix B.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import numpy as np

from ...device import back_end
from ...trees import Tree
from .exponential import exp


@dataclass(frozen=True)
class QueryBlock:
    """Queries start:stop over keys first:stop, and what is added to their scores: 0 or -inf, (B, 1, 1, q, k)."""

    start: int
    stop: int
    first: int
    bias: mx.array


class PackedAttention:
    """Stands where a cache does, for rows of packed examples: nothing is kept, masks are shared by all layers."""

    def __init__(self, segments: mx.array, longest: int | None = None) -> None:
        """`segments` (B, L) numbers the examples of each row, 0 for padding; `longest` is their greatest length."""
        self.blocks = query_blocks(segments, longest or segments.shape[1])
        self._attention: dict[float, Callable[..., Any]] = {}

    def attend(
        self, queries: mx.array, keys: mx.array, values: mx.array, *, scale: float, step: Any = None
    ) -> mx.array:
        """Return the attention output (B, H, L, head_dim)."""
        return self.with_normalizers(queries, keys, values, scale)[0]

    def with_normalizers(
        self, queries: mx.array, keys: mx.array, values: mx.array, scale: float
    ) -> tuple[mx.array, mx.array]:
        """Return the output, and the log of the sum of exponentials of each query's scores, (B, H, L, 1) float32."""
        if scale not in self._attention:
            self._attention[scale] = make_attention(self.blocks, scale)
        output, normalizers = self._attention[scale](queries, keys, values)
        return output, normalizers.reshape(*queries.shape[:3], 1)


def query_blocks(segments: mx.array, longest: int) -> list[QueryBlock]:
    """Return the blocks of rows (B, L)."""
    device = back_end()
    length, dtype, size = segments.shape[1], mx.float32, device.attention_block
    positions = mx.arange(length)
    blocks = []
    for start in range(0, length, size):
        stop = min(start + size, length)
        first = max(0, start - longest + 1) if device.compiles_steps else _first_seen(segments, start)
        same = segments[:, start:stop, None] == segments[:, None, first:stop]
        seen = same & (positions[start:stop, None] >= positions[None, first:stop])
        bias = mx.where(seen, mx.array(0.0, dtype), mx.array(-mx.inf, dtype))
        blocks.append(QueryBlock(start, stop, first, bias[:, None, None]))
    return blocks


def _first_seen(segments: mx.array, start: int) -> int:
    """Return where the example that position `start` is in begins, in the row in which it does so earliest.

    On a GPU, where a step is compiled for its shapes, these must not follow from the values.
    """
    rows = np.array(segments)
    return min(int((row[: start + 1] == row[start]).argmax()) for row in rows)


def make_attention(blocks: Sequence[QueryBlock], scale: float) -> Callable[..., Any]:
    """Return a function of queries (B, H, L, d), keys and values (B, K, L, d) to (output, normalizers)."""
    # The masks go in as arguments: a transformation must not find them captured.
    biases = [block.bias for block in blocks]

    @mx.custom_function
    def attention(queries: mx.array, keys: mx.array, values: mx.array, *biases: mx.array) -> tuple[mx.array, mx.array]:
        outputs, normalizers = [], []
        for block, bias in zip(blocks, biases, strict=True):
            scores = _scores(queries, keys, block, bias, scale)
            largest = scores.max(axis=-1, keepdims=True)
            weights = exp(scores - largest)
            sums = weights.sum(axis=-1, keepdims=True)
            output = _times(weights, values[:, :, block.first : block.stop]) / sums.astype(values.dtype)
            outputs.append(output.reshape(*queries.shape[:2], block.stop - block.start, -1))
            normalizers.append(largest + mx.log(sums))
        return mx.concatenate(outputs, axis=2), mx.concatenate(normalizers, axis=3)

    @attention.vjp
    def attention_vjp(primals: Tree, cotangents: Tree, outputs: Tree) -> tuple[mx.array, ...]:
        queries, keys, values, *biases = primals
        grads = _gradients(queries, keys, values, blocks, biases, scale, outputs, cotangents)
        return (*grads, *(mx.zeros_like(bias) for bias in biases))

    return lambda queries, keys, values: attention(queries, keys, values, *biases)


def _grouped(x: mx.array, n_kv_heads: int, block: QueryBlock) -> mx.array:
    """Return the block's part of (B, H, L, d) as (B, K, H / K, q, d)."""
    B, H, _, d = x.shape
    return x[:, :, block.start : block.stop].reshape(B, n_kv_heads, H // n_kv_heads, block.stop - block.start, d)


def _folded(x: mx.array) -> mx.array:
    """Return (B, K, G, q, n) as (B, K, G * q, n), so that one product serves a group of heads."""
    return x.reshape(*x.shape[:2], -1, x.shape[-1])


def _scores(queries: mx.array, keys: mx.array, block: QueryBlock, bias: mx.array, scale: float) -> mx.array:
    """Return masked scores (B, K, G, q, k) in float32."""
    part = _grouped(queries, keys.shape[1], block) * scale
    products = _folded(part) @ keys[:, :, block.first : block.stop].swapaxes(-1, -2)
    return products.reshape(*part.shape[:4], -1).astype(mx.float32) + bias


def _times(weights: mx.array, values: mx.array) -> mx.array:
    """Return (B, K, G, q, k) times (B, K, k, d) as (B, K, G, q, d)."""
    return (_folded(weights).astype(values.dtype) @ values).reshape(*weights.shape[:4], -1)


def _gradients(
    queries: mx.array,
    keys: mx.array,
    values: mx.array,
    blocks: Sequence[QueryBlock],
    biases: Sequence[mx.array],
    scale: float,
    outputs: Sequence[mx.array],
    cotangents: Sequence[mx.array],
) -> tuple[mx.array, mx.array, mx.array]:
    """Return the gradients of queries, keys and values, whose sums over blocks are in float32."""
    n_kv_heads, dtype = keys.shape[1], queries.dtype
    for_queries: list[mx.array] = []
    for_keys, for_values = mx.zeros(keys.shape, mx.float32), mx.zeros(values.shape, mx.float32)
    for block, bias in zip(blocks, biases, strict=True):
        reach = slice(block.first, block.stop)
        normalizers = outputs[1][:, :, :, block.start : block.stop]
        weights = exp(_scores(queries, keys, block, bias, scale) - normalizers)
        down = _grouped(cotangents[0], n_kv_heads, block)
        towards = _times_transposed(down, values[:, :, reach])
        own = (down * _grouped(outputs[0], n_kv_heads, block)).astype(mx.float32).sum(axis=-1, keepdims=True)
        # The slope of a normalizer by a score is the score's weight.
        own = own - cotangents[1][:, :, :, block.start : block.stop]
        slopes = (weights * (towards - own)).astype(dtype)
        weights = weights.astype(dtype)
        part = _times(slopes, keys[:, :, reach]) * scale
        for_queries.append(part.reshape(*queries.shape[:2], block.stop - block.start, -1))
        grouped = _folded(_grouped(queries, n_kv_heads, block) * scale)
        for_keys[:, :, reach] += _folded(slopes).swapaxes(-1, -2) @ grouped
        for_values[:, :, reach] += _folded(weights).swapaxes(-1, -2) @ _folded(down)
        # One block at a time.
        for_keys, for_values = mx.depends([for_keys, for_values], [for_queries[-1]])
    return mx.concatenate(for_queries, axis=2), for_keys.astype(dtype), for_values.astype(dtype)


def _times_transposed(down: mx.array, values: mx.array) -> mx.array:
    """Return (B, K, G, q, d) times the transpose of (B, K, k, d), (B, K, G, q, k) in float32."""
    return (_folded(down) @ values.swapaxes(-1, -2)).reshape(*down.shape[:4], -1).astype(mx.float32)
