"""The exponential function and what is made of it, fused into few kernels, by the faster way of the device in use.

MLX's CPU back end takes exponentials one by one; out of additions and multiplications alone they are made many at a
time, in a third of the time. On a GPU it is one instruction, and MLX's own is used.
"""

import math

import mlx.core as mx
import numpy as np

from ...device import back_end
from ...trees import Tree

_LOG2_E = math.log2(math.e)
# Adding this to a float32 below 2^22 leaves its nearest integer in the lowest bits of the mantissa.
_ROUND = 1.5 * 2**23
_SMALLEST = 2.0**-126
_CACHED_VALUES = 2**18


def _power_of_two_polynomial(degree: int) -> list[float]:
    """Return coefficients of a polynomial near 2^f for -1/2 <= f <= 1/2, lowest first, which is 1 at 0.

    It is the Chebyshev interpolation but for a factor.
    """
    found = np.polynomial.chebyshev.Chebyshev.interpolate(np.exp2, degree, domain=[-0.5, 0.5])
    coefficients = found.convert(kind=np.polynomial.Polynomial).coef
    return [float(value) for value in coefficients / coefficients[0]]


# Of degree 5 it is off by 2^-23, a float32's last digit.
_POLYNOMIAL = _power_of_two_polynomial(5)


def exp(x: mx.array) -> mx.array:
    """Return e^x of float32 x <= 88, as exactly as MLX's own does, less 2^-126, so that it ends in 0.

    2^x = 2^n 2^f with n the integer nearest to x: a polynomial gives 2^f, and n is added to its exponent.
    """
    return mx.exp(x) if back_end().native_exponential else _by_polynomial(x)


@mx.compile
def _by_polynomial(x: mx.array) -> mx.array:
    x = mx.maximum(x * _LOG2_E, -126.0)
    shifted = x + _ROUND
    fraction = x - (shifted - _ROUND)
    power = _POLYNOMIAL[-1] * fraction + _POLYNOMIAL[-2]
    for coefficient in reversed(_POLYNOMIAL[:-2]):
        power = power * fraction + coefficient
    result = (power.view(mx.int32) + mx.left_shift(shifted.view(mx.int32), 23)).view(mx.float32)
    return result - _SMALLEST


def log_sum_exp(x: mx.array) -> mx.array:
    """Return the log of the sum of e^x over the last axis of float32 (n, V), which goes away."""
    if back_end().native_exponential:
        return mx.logsumexp(x, axis=-1)
    largest = x.max(axis=-1, keepdims=True)
    # So many rows at a time that what lies between is in the processor's cache.
    rows = max(1, _CACHED_VALUES // x.shape[-1])
    sums = [exp(x[at : at + rows] - largest[at : at + rows]).sum(axis=-1) for at in range(0, x.shape[0], rows)]
    return mx.concatenate(sums).log() + largest[:, 0]


def sigmoid(x: mx.array) -> mx.array:
    """Return 1 / (1 + e^-x)."""
    if back_end().native_exponential:
        return mx.sigmoid(x)
    return (1 / (1 + exp(mx.minimum(-x.astype(mx.float32), 87.0)))).astype(x.dtype)


@mx.custom_function
def gated(gate: mx.array, up: mx.array) -> mx.array:
    """Return silu(gate) * up, of which only the arguments are kept for the gradient."""
    return _gated(gate, up)


@gated.vjp
def _gated_vjp(primals: Tree, cotangent: mx.array, _: mx.array) -> tuple[mx.array, mx.array]:
    gate, up = primals
    return _gated_gradients(gate, up, cotangent)


@mx.compile
def _gated(gate: mx.array, up: mx.array) -> mx.array:
    return gate * sigmoid(gate) * up


@mx.compile
def _gated_gradients(gate: mx.array, up: mx.array, cotangent: mx.array) -> tuple[mx.array, mx.array]:
    share = sigmoid(gate)
    silu = gate * share
    return cotangent * up * (share + silu * (1 - share)), cotangent * silu
