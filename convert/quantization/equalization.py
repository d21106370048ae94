"""Scales moved between neighboring tensors so that input channels matter alike: the model's function stays.

A channel that carries large values needs finer steps than its group's neighbors. Instead of finer steps it gets
larger weights: a column of a projection is multiplied by s and the norm weight, value row or up row that feeds it is
divided by s. Nothing is left to do at inference. Which tensors take which factors says channel_scales.py.

Source: the idea of AWQ, https://arxiv.org/abs/2306.00978, sections 3.2 and 4; here it needs no activations, since the
weights tell their sizes (see importance.py).
"""

import numpy as np

from ...model.channel_scales import LayerScales
from .channel_magnitudes import Energies, hidden_sizes, normed_sizes, value_sizes
from .dtypes import rounded

# Scale = size ** POWER. Half way evens out the error of channels with that of their neighbors in the group.
POWER = 0.5
_LEAST_SIZE = 1e-3


def scales_from_weights(
    prefix: str,
    attention_norm: np.ndarray,
    mlp_norm: np.ndarray,
    channels: np.ndarray,
    energies: Energies,
    dtype: str,
) -> LayerScales:
    """Return a layer's scales as its weights suggest them.

    `prefix` is `model.layers.N`, `channels` (D,) the sizes of the residual stream's channels, `dtype` that of the
    stored norms.
    """
    attention_inputs, mlp_inputs = (normed_sizes(norm, channels) for norm in (attention_norm, mlp_norm))
    return LayerScales(
        attention=norm_scales(attention_norm, attention_inputs, dtype),
        values=scales_of(value_sizes(prefix, energies, attention_inputs)),
        mlp=norm_scales(mlp_norm, mlp_inputs, dtype),
        hidden=scales_of(hidden_sizes(prefix, energies, mlp_inputs)),
    )


def scales_of(sizes: np.ndarray, power: float = POWER) -> np.ndarray:
    """Return the scales of channels with the given sizes (root mean squares), geometric mean one."""
    floor = max(float(sizes.max()) * _LEAST_SIZE, 1e-12)
    logs = np.log(np.maximum(sizes, floor).astype(np.float64)) * power
    return np.exp(logs - logs.mean()).astype(np.float32)


def norm_scales(norm: np.ndarray, sizes: np.ndarray, dtype: str, power: float = POWER) -> np.ndarray:
    """Return scales by which the norm weight can be divided without a rounding error in its storage dtype."""
    scales = scales_of(sizes, power)
    divided = rounded(norm / scales, dtype)
    exact = np.divide(norm, divided, out=np.ones_like(scales), where=divided != 0)
    return exact.astype(np.float32)
