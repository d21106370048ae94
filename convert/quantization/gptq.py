"""GPTQ: each column's rounding error is compensated by the columns that follow.

With H = E[x xᵀ] of a matrix's inputs and H⁻¹ = UᵀU (U upper triangular), rounding column j by d leaves the error
d / U[j, j] after all later columns have made up for what they can, by d U[j, k] / U[j, j]. Every group of columns
tries several scales through its own rounding, keeps for each row the one of the smallest error, and refits it.

Source: GPTQ, https://arxiv.org/abs/2210.17323, section 3 and algorithm 1; the choice and refit of scales under the
compensated error is this project's.
"""

from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from ...model.quantization import Scheme
from ..phases import Told, untold
from .grid import Grid, fitted, trial_grids

# Columns that are updated one by one before the rest of their group is, by one matrix product.
_STRIP = 16


@dataclass(frozen=True)
class Rounded:
    """Codes (R, C) uint8 and the grid (R, C / group size) of a quantized matrix; `loss` is its mean squared error.

    The loss is per output channel, over the inputs whose moments the matrix was rounded for.
    """

    codes: np.ndarray
    grid: Grid
    loss: float

    def dequantized(self) -> mx.array:
        """Return the values (R, C) float32."""
        rows, columns = self.codes.shape
        groups = mx.array(self.codes).astype(mx.float32).reshape(rows, self.grid.scales.shape[1], -1)
        return (groups * self.grid.scales[..., None] + self.grid.biases[..., None]).reshape(rows, columns)


def compensated(weights: mx.array, factor: np.ndarray, scheme: Scheme, dtype: mx.Dtype, told: Told = untold) -> Rounded:
    """Quantize `weights` (R, C) to the smallest output error under the inputs' moments, given as `inverse_factor`.

    `told` is called with the groups of columns that are done and all of them.
    """
    columns = weights.astype(mx.float32).T
    n_columns, rows = columns.shape
    size = scheme.group_size
    codes, scales, biases, loss = [], [], [], 0.0
    for start in range(0, n_columns, size):
        told(start // size, n_columns // size)
        stop = start + size
        block, u = columns[:size], mx.array(factor[start:stop, start:stop])
        group_codes, grid, errors = _round_group(block, u, scheme, dtype)
        if stop < n_columns:
            columns = columns[size:] - mx.array(factor[start:stop, stop:]).T @ errors
        group_loss = errors.square().sum()
        mx.eval(columns, group_codes, grid.scales, grid.biases, group_loss)
        codes.append(np.array(group_codes.astype(mx.uint8)))
        scales.append(np.array(grid.scales))
        biases.append(np.array(grid.biases))
        loss += float(np.array(group_loss))
    told(n_columns // size, n_columns // size)
    found = Grid(mx.array(np.stack(scales, axis=-1)), mx.array(np.stack(biases, axis=-1)))
    return Rounded(np.concatenate(codes).T, found, loss / rows)


def inverse_factor(hessian: np.ndarray, damping: float) -> np.ndarray:
    """Return U of the damped Hessian's inverse UᵀU, (C, C) float32."""
    damped = hessian.astype(np.float64)
    diagonal = np.diag(damped).copy()
    damped[np.diag_indices_from(damped)] += damping * diagonal.mean() + 1e-12
    # H = LLᵀ read backwards gives the upper factor of the inverse without forming the inverse.
    backwards = np.linalg.cholesky(damped[::-1, ::-1])
    lower = np.ascontiguousarray(backwards[::-1, ::-1])
    return np.linalg.inv(lower).astype(np.float32)


def _round_group(block: mx.array, u: mx.array, scheme: Scheme, dtype: mx.Dtype) -> tuple[mx.array, Grid, mx.array]:
    """Return codes (G, R), grid (R,) and whitened errors (G, R) of one group of columns (G, R)."""
    whiten = mx.linalg.inv(u, stream=mx.cpu).T
    importance = 1 / mx.diag(u).square()
    trials = trial_grids(block, importance, scheme, dtype)
    n_trials, rows = trials.scales.shape
    flat = Grid(trials.scales.reshape(-1), trials.biases.reshape(-1))
    codes = _round_columns(mx.tile(block, (1, n_trials)), u, flat, scheme)
    refitted, errors = _refit(mx.tile(block, (1, n_trials)), codes, whiten, flat, dtype)
    best = errors.square().sum(axis=0).reshape(n_trials, rows).argmin(axis=0)
    at = best * rows + mx.arange(rows)
    grid = Grid(refitted.scales[at], refitted.biases[at])
    return codes[:, at], grid, errors[:, at]


def _round_columns(block: mx.array, u: mx.array, grid: Grid, scheme: Scheme) -> mx.array:
    """Return the codes (G, R) of columns rounded one after the other, each taking up the errors before it."""
    size, steps = scheme.group_size, 2**scheme.bits - 1
    scale = mx.where(grid.scales == 0, 1.0, grid.scales)
    inverse = 1 / scale
    codes = []
    for start in range(0, size, _STRIP):
        strip, errors = block[:_STRIP], []
        for column in range(start, start + _STRIP):
            code = mx.clip(mx.round((strip[0] - grid.biases) * inverse), 0, steps)
            error = (strip[0] - code * grid.scales - grid.biases) / u[column, column]
            strip = strip[1:] - u[column, column + 1 : start + _STRIP, None] * error
            codes.append(code)
            errors.append(error)
        if start + _STRIP < size:
            block = block[_STRIP:] - u[start : start + _STRIP, start + _STRIP :].T @ mx.stack(errors)
    return mx.stack(codes)


def _refit(block: mx.array, codes: mx.array, whiten: mx.array, grid: Grid, dtype: mx.Dtype) -> tuple[Grid, mx.array]:
    """Fit scales and biases to the codes under the compensated error; return them and the whitened errors (G, R)."""
    # An error e of the group costs |U⁻ᵀ e|² once the later columns have compensated for it. Whitened by U⁻ᵀ the fit is
    # an ordinary least-squares problem for each row, in which only scale and bias vary and the codes stay.
    target, steps, ones = whiten @ block, whiten @ codes, whiten.sum(axis=1, keepdims=True)
    better = fitted(target, steps, ones, grid, dtype)
    old = target - steps * grid.scales - ones * grid.biases
    new = target - steps * better.scales - ones * better.biases
    improved = new.square().sum(axis=0) < old.square().sum(axis=0)
    kept = Grid(mx.where(improved, better.scales, grid.scales), mx.where(improved, better.biases, grid.biases))
    return kept, mx.where(improved, new, old)
