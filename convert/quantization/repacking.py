"""Repacks weights that lie on a grid already: the source's own levels are kept where MLX's groups can hold them.

The blocks of GGUF's types are grids of equal steps, which MLX's affine groups of the same length hold as they are;
quantizing the values again would choose other steps and add an error. Source of the block formats:
https://github.com/ggml-org/ggml, docs/gguf.md and src/ggml-quants.c (Q4_0, Q4_1, Q5_0, Q5_1, Q8_0).
"""

import mlx.core as mx
import numpy as np

from ...model.quantization import Scheme
from .bit_packing import pack_codes
from .quantizer import Packed, RoundToNearest

_LEAST_STEP = 1e-8
# A group's squared error of its squares, below which its levels are the source's: float16 rounds to 2⁻¹¹ of a value.
_SAME = 1e-6
# Differences below this share of a group's range are rounding, not steps: 8 bits have 255 of them.
_LEAST_GAP = 1e-3


class Repacking(RoundToNearest):
    """Takes for each group the best of the grids that it may come from and of round-to-nearest's."""

    name = "the source's own levels where they fit, else round-to-nearest"

    def __init__(self) -> None:
        self._groups = self._same = 0

    @property
    def kept(self) -> float:
        """The share of the groups so far whose levels are the source's own."""
        return self._same / self._groups if self._groups else 0.0

    def __call__(self, tensor: str, start: int, rows: mx.array, scheme: Scheme) -> Packed:
        """Quantize the rows; they are independent of each other."""
        plain = super().__call__(tensor, start, rows, scheme)
        if scheme.mode != "affine":
            self._groups += rows.size // scheme.group_size
            return plain
        _, scales, biases = plain
        groups = rows.reshape(*scales.shape, scheme.group_size).astype(mx.float32)
        top = 2**scheme.bits - 1
        best = _rounded(groups, scales, biases, top)
        for step, bias in _source_grids(groups, scheme.bits):
            best = _better(best, _rounded(groups, step.astype(scales.dtype), bias.astype(scales.dtype), top))
        codes, scales, biases, error = best
        self._groups += error.size
        self._same += int(np.array((error <= _SAME * groups.square().sum(-1)).sum()))
        words = pack_codes(np.array(codes.reshape(rows.shape).astype(mx.uint8)), scheme.bits)
        return mx.array(words), scales, biases


_Grid = tuple[mx.array, mx.array, mx.array, mx.array]


def _source_grids(groups: mx.array, bits: int) -> list[tuple[mx.array, mx.array]]:
    """Return steps and lowest levels (R, G) of the grids that groups (R, G, size) may lie on."""
    low, high = groups.min(-1), groups.max(-1)
    edge = mx.where(-low > high, low, high)
    half = 2 ** (bits - 1)
    symmetric = mx.abs(edge) / (half - 1)
    # The smallest gap between two values, stretched so that whole steps lead from the lowest to the highest one.
    gaps = mx.diff(mx.sort(groups, axis=-1), axis=-1)
    gap = mx.where(gaps > _LEAST_GAP * (high - low)[..., None], gaps, mx.inf).min(-1)
    steps = mx.maximum(mx.round((high - low) / gap), 1)
    # From the smallest to the largest value (Q4_1, Q5_1); the value of largest magnitude as the lowest code (Q4_0,
    # Q5_0), whose step may be negative; as many codes on either side of zero (Q8_0).
    return [
        ((high - low) / (2**bits - 1), low),
        (-edge / half, edge),
        (symmetric, -half * symmetric),
        ((high - low) / steps, low),
    ]


def _rounded(groups: mx.array, step: mx.array, bias: mx.array, top: int) -> _Grid:
    """Return codes on a grid, the grid, and the squared error of each group."""
    wide_step, wide_bias = step.astype(mx.float32)[..., None], bias.astype(mx.float32)[..., None]
    safe = mx.where(mx.abs(wide_step) < _LEAST_STEP, _LEAST_STEP, wide_step)
    codes = mx.clip(mx.round((groups - wide_bias) / safe), 0, top)
    error = mx.square(codes * wide_step + wide_bias - groups).sum(-1)
    return codes, step, bias, error


def _better(one: _Grid, other: _Grid) -> _Grid:
    nearer = other[3] < one[3]
    codes = mx.where(nearer[..., None], other[0], one[0])
    step, bias, error = (mx.where(nearer, b, a) for a, b in zip(one[1:], other[1:], strict=True))
    return codes, step, bias, error
