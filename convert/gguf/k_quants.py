"""Encodes ggml's K-quants: superblocks of 256 values, whose parts have small integer scales of their own.

Q4_K and Q5_K: eight parts of 32, value = d * scale * code - dmin * min, scales and mins in 6 bits.
Q6_K: sixteen parts of 16, value = d * scale * (code - 32), scales in 8 bits.

Source of the formats: ggml `src/ggml-common.h` (block_q4_K, block_q5_K, block_q6_K) and how they are read,
`src/ggml-quants.c` (dequantize_row_*); the search for scales is this project's.
"""

from collections.abc import Callable

import mlx.core as mx
import numpy as np

BLOCK = 256
# Steps that a part's range is divided into, around the number of codes: a little fewer or more may round better.
_TRIALS = (0.0, -0.9, -0.6, -0.3, 0.3, 0.6, 0.9)
_TINY = 1e-30


def encode_k(values: mx.array, kind: str) -> np.ndarray:
    """Return the bytes (R, B) uint8 of rows (R, C) float32 whose length blocks of 256 divide."""
    rows = values.shape[0]
    parts = values.reshape(-1, BLOCK)
    return _ENCODERS[kind](parts).reshape(rows, -1)


def _encode_q4(values: mx.array) -> np.ndarray:
    codes, scales = _encode_with_mins(values, 15)
    pairs = codes.reshape(-1, 4, 2, 32)
    low = (pairs[:, :, 0] | pairs[:, :, 1] << 4).reshape(-1, 128)
    return np.concatenate([scales, low], axis=1)


def _encode_q5(values: mx.array) -> np.ndarray:
    codes, scales = _encode_with_mins(values, 31)
    pairs = codes.reshape(-1, 4, 2, 32)
    low = (pairs[:, :, 0] & 15 | (pairs[:, :, 1] & 15) << 4).reshape(-1, 128)
    # Bit n of byte l is the fifth of the code at 32 n + l.
    high = np.packbits(codes.reshape(-1, 8, 32) >> 4, axis=1, bitorder="little").reshape(-1, 32)
    return np.concatenate([scales, high, low], axis=1)


def _encode_q6(values: mx.array) -> np.ndarray:
    parts = values.reshape(-1, 16, 16)
    scale = _symmetric_scale(parts, 32)
    # The largest scale, with its sign, becomes -128, the end of the range that has one more step.
    largest = mx.take_along_axis(scale, mx.abs(scale).argmax(axis=-1, keepdims=True), axis=-1)
    d = _halves(largest / -128)
    steps = mx.clip(mx.round(scale / _nonzero(d)), -128, 127)
    codes = mx.clip(mx.round(parts / _nonzero(d * steps)[..., None]), -32, 31) + 32
    quarters = np.array(codes.astype(mx.uint8)).reshape(-1, 2, 4, 32)
    first, second, third, fourth = (quarters[:, :, n] for n in range(4))
    low = np.stack([first & 15 | (third & 15) << 4, second & 15 | (fourth & 15) << 4], axis=2).reshape(-1, 128)
    high = (first >> 4 | second >> 4 << 2 | third >> 4 << 4 | fourth >> 4 << 6).reshape(-1, 64)
    return np.concatenate([low, high, np.array(steps.astype(mx.int8)).view(np.uint8), _bytes_of(d)], axis=1)


_ENCODERS: dict[str, Callable[[mx.array], np.ndarray]] = {"Q4_K": _encode_q4, "Q5_K": _encode_q5, "Q6_K": _encode_q6}


def _encode_with_mins(values: mx.array, top: int) -> tuple[np.ndarray, np.ndarray]:
    """Return codes (N, 256) up to `top`, and the bytes (N, 16) of d, dmin, scales and mins."""
    parts = values.reshape(-1, 8, 32)
    scale, low = _scale_and_min(parts, top)
    d, dmin = (_halves(each.max(axis=-1, keepdims=True) / 63) for each in (scale, low))
    steps, mins = (mx.clip(mx.round(each / _nonzero(unit)), 0, 63) for each, unit in ((scale, d), (low, dmin)))
    codes = mx.clip(mx.round((parts + (dmin * mins)[..., None]) / _nonzero(d * steps)[..., None]), 0, top)
    s, m = (np.array(each.astype(mx.uint8)) for each in (steps, mins))
    # The first four scales and mins lie in six bits; their bytes' other two are the upper bits of the last four.
    packed = [s[:, :4] | s[:, 4:] >> 4 << 6, m[:, :4] | m[:, 4:] >> 4 << 6, s[:, 4:] & 15 | (m[:, 4:] & 15) << 4]
    return np.array(codes.astype(mx.uint8)), np.concatenate([_bytes_of(d), _bytes_of(dmin), *packed], axis=1)


def _scale_and_min(parts: mx.array, top: int) -> tuple[mx.array, mx.array]:
    """Return scale and min, both (N, P) and not negative, of values ≈ scale * code - min in parts (N, P, V)."""
    weight = mx.abs(parts) + mx.sqrt(parts.square().mean(axis=-1, keepdims=True))
    low = mx.minimum(parts.min(axis=-1, keepdims=True), 0)
    span = mx.maximum(parts.max(axis=-1, keepdims=True) - low, _TINY)
    total, linear = weight.sum(axis=-1), (weight * parts).sum(axis=-1)
    # Where all values are equal there is nothing to fit: the min alone says them.
    plain = (span / top)[..., 0], -low[..., 0]
    best = _better((), weight.sum(axis=-1) * mx.where(span[..., 0] > _TINY, mx.inf, 0.0), *plain)
    for trial in _TRIALS:
        codes = mx.clip(mx.round((parts - low) * ((top + trial) / span)), 0, top)
        of_codes, of_squares = (weight * codes).sum(axis=-1), (weight * codes.square()).sum(axis=-1)
        of_products = (weight * codes * parts).sum(axis=-1)
        determinant = mx.maximum(total * of_squares - of_codes.square(), _TINY)
        scale = (total * of_products - linear * of_codes) / determinant
        offset = (of_squares * linear - of_codes * of_products) / determinant
        # A min can't raise values: where it would, the fit goes through zero.
        scale = mx.where(offset > 0, of_products / mx.maximum(of_squares, _TINY), scale)
        offset = mx.minimum(offset, 0)
        error = (weight * (scale[..., None] * codes + offset[..., None] - parts).square()).sum(axis=-1)
        best = _better(best, error, mx.maximum(scale, 0), -offset)
    return best[1], best[2]


def _symmetric_scale(parts: mx.array, half: int) -> mx.array:
    """Return the scale (N, P), of either sign, of values ≈ scale * code with codes from -half to half - 1."""
    weight = mx.abs(parts) + mx.sqrt(parts.square().mean(axis=-1, keepdims=True))
    extreme = mx.take_along_axis(parts, mx.abs(parts).argmax(axis=-1, keepdims=True), axis=-1)
    best: tuple[mx.array, ...] = ()
    for trial in _TRIALS:
        codes = mx.clip(mx.round(parts * (-(half + trial) / _nonzero(extreme))), -half, half - 1)
        scale = (weight * codes * parts).sum(axis=-1) / mx.maximum((weight * codes.square()).sum(axis=-1), _TINY)
        error = (weight * (scale[..., None] * codes - parts).square()).sum(axis=-1)
        best = _better(best, error, scale)
    return best[1]


def _better(best: tuple[mx.array, ...], error: mx.array, *found: mx.array) -> tuple[mx.array, ...]:
    """Return errors and what was found with them, the smaller ones; evaluated, to keep few arrays in memory."""
    chosen = (error, *found)
    if best:
        wins = error < best[0]
        chosen = tuple(mx.where(wins, new, old) for new, old in zip(chosen, best, strict=True))
    mx.eval(chosen)
    return chosen


def _halves(values: mx.array) -> mx.array:
    """Return float32 values that float16 holds."""
    return values.astype(mx.float16).astype(mx.float32)


def _nonzero(values: mx.array) -> mx.array:
    return mx.where(values == 0, 1.0, values)


def _bytes_of(halves: mx.array) -> np.ndarray:
    return np.array(halves.astype(mx.float16)).view(np.uint8)
