"""Grids of quantized groups: value = scale * code + bias, with scale and bias as the storage dtype holds them."""

from dataclasses import dataclass

import mlx.core as mx

from ...model.quantization import Scheme

# Parts of a group's range that are tried: a narrower grid clips the extremes and serves the rest better.
SHRINKAGES = (1.0, 0.92, 0.84, 0.76, 0.68)
_TINY = 1e-12


@dataclass(frozen=True)
class Grid:
    """Scales and biases of groups, float32 values that the storage dtype holds exactly."""

    scales: mx.array
    biases: mx.array

    @classmethod
    def stored(cls, scales: mx.array, biases: mx.array, dtype: mx.Dtype) -> "Grid":
        """Return the grid rounded to what `dtype` holds."""
        return cls(scales.astype(dtype).astype(mx.float32), biases.astype(dtype).astype(mx.float32))


def trial_grids(block: mx.array, importance: mx.array, scheme: Scheme, dtype: mx.Dtype) -> Grid:
    """Return grids (T, R) to try for a group's columns (G, R): shrunk ranges, each fitted to its rounded weights.

    `importance` (G,) weighs the squared error of each column.
    """
    steps = 2**scheme.bits - 1
    low, high = block.min(axis=0), block.max(axis=0)
    root = mx.sqrt(importance)[:, None]
    scales, biases = [], []
    for shrinkage in SHRINKAGES:
        middle, half = (high + low) / 2, (high - low) / 2 * shrinkage
        grid = Grid(mx.maximum(2 * half / steps, _TINY), middle - half)
        codes = mx.clip(mx.round((block - grid.biases) / grid.scales), 0, steps)
        grid = fitted(root * block, root * codes, root, grid, dtype)
        scales.append(grid.scales)
        biases.append(grid.biases)
    return Grid(mx.stack(scales), mx.stack(biases))


def fitted(target: mx.array, codes: mx.array, ones: mx.array, fallback: Grid, dtype: mx.Dtype) -> Grid:
    """Return the least-squares grid of target = scale * codes + bias * ones over axis 0, rounded to `dtype`.

    All three are (G, R) or broadcast to it; `fallback` stays where the codes don't determine a grid.
    """
    cc, co, oo = (codes.square().sum(axis=0), (codes * ones).sum(axis=0), ones.square().sum(axis=0))
    ct, ot = (codes * target).sum(axis=0), (ones * target).sum(axis=0)
    determinant = cc * oo - co * co
    usable = determinant > 1e-5 * cc * oo
    safe = mx.where(usable, determinant, 1.0)
    scale, bias = (ct * oo - ot * co) / safe, (ot * cc - ct * co) / safe
    usable = usable & (scale > 0)
    return Grid.stored(mx.where(usable, scale, fallback.scales), mx.where(usable, bias, fallback.biases), dtype)


def fitted_to_range(weights: mx.array, scheme: Scheme, dtype: mx.Dtype) -> tuple[mx.array, Grid]:
    """Return codes (R, C) uint8 and the grid (R, C / group size) fitted to weights rounded over their full range."""
    groups = weights.reshape(weights.shape[0], -1, scheme.group_size)
    steps = 2**scheme.bits - 1
    low = groups.min(axis=-1)
    scale = mx.maximum((groups.max(axis=-1) - low) / steps, _TINY)
    codes = _nearest_codes(groups, Grid(scale, low), steps)
    mean_code, mean_weight = codes.mean(axis=-1), groups.mean(axis=-1)
    spread = codes.square().mean(axis=-1) - mean_code.square()
    slope = ((codes * groups).mean(axis=-1) - mean_code * mean_weight) / mx.maximum(spread, _TINY)
    usable = (spread > 1e-3) & (slope > 0)
    slope = mx.where(usable, slope, scale)
    grid = Grid.stored(slope, mx.where(usable, mean_weight - slope * mean_code, low), dtype)
    return _nearest_codes(groups, grid, steps).reshape(weights.shape).astype(mx.uint8), grid


def _nearest_codes(groups: mx.array, grid: Grid, steps: int) -> mx.array:
    scale = mx.where(grid.scales == 0, 1.0, grid.scales)
    return mx.clip(mx.round((groups - grid.biases[..., None]) / scale[..., None]), 0, steps)
