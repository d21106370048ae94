"""Lets the CPU's graphs look as a GPU's: MLX's fused operations are one node of the graph each there.

MLX's CPU back end builds `mx.fast.rms_norm`, `rope` and `scaled_dot_product_attention`, and `mx.dequantize`, of many
operations. Metal and CUDA have a kernel for each. While `fused_operations` is entered, each is a stand-in of one launch
whose shapes are right and whose values mean nothing.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import mlx.core as mx

from ..device import back_end


@contextmanager
def fused_operations(*, reads: bool) -> Iterator[None]:
    """Replace MLX's fused operations by stand-ins, on the CPU alone.

    With `reads`, attention reads all keys and values, which takes some views beside the launch; without, it is a single
    node that the host builds in as little time as the operation itself.
    """
    if back_end().fused_kernels:
        yield
        return
    own = mx.fast.rms_norm, mx.fast.rope, mx.fast.scaled_dot_product_attention, mx.dequantize
    attention = _reading_attention if reads else _attention
    mx.fast.rms_norm, mx.fast.rope, mx.dequantize = _rms_norm, _rope, _dequantize  # type: ignore[assignment]
    mx.fast.scaled_dot_product_attention = attention  # type: ignore[assignment]
    try:
        yield
    finally:
        mx.fast.rms_norm, mx.fast.rope, mx.fast.scaled_dot_product_attention, mx.dequantize = own


def _rms_norm(x: mx.array, weight: mx.array | None, *_: object, **__: object) -> mx.array:
    return mx.negative(x) if weight is None else mx.multiply(x, weight)


def _rope(x: mx.array, *_: object, **__: object) -> mx.array:
    return mx.negative(x)


def _attention(queries: mx.array, *_: object, **__: object) -> mx.array:
    return mx.negative(queries)


def _reading_attention(queries: mx.array, keys: mx.array, values: mx.array, **_: object) -> mx.array:
    """Return (B, H, L, head_dim), by one product of all keys and values."""
    B, H, L, head_dim = queries.shape
    n_kv_heads = keys.shape[1]
    read = mx.addmm(queries[:, :n_kv_heads, :1], values.swapaxes(-1, -2), keys)
    return mx.broadcast_to(read[:, :, None, :1], (B, n_kv_heads, H // n_kv_heads, L, head_dim)).reshape(queries.shape)


def _dequantize(
    w: mx.array, scales: mx.array, biases: mx.array | None = None, group_size: int = 64, *_: object, **__: object
) -> mx.array:
    values = scales + scales if biases is None else scales + biases
    return mx.broadcast_to(values[..., None], (*values.shape, group_size)).reshape(*w.shape[:-1], -1)
