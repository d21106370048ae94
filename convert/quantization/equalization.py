"""Channel equalization: scales moved between neighboring tensors, which leaves the model's function as it is.

A channel that carries large values needs finer steps than its group's neighbors. Instead of finer steps it gets
larger weights: a column of a projection is multiplied by s and the norm weight, value row or up row that feeds it is
divided by s. Nothing is left to do at inference. Which tensors take which factors says channel_scales.py.

Source: the activation-aware scaling of SmoothQuant, https://arxiv.org/abs/2211.10438, and AWQ,
https://arxiv.org/abs/2306.00978, sections 3.2 and 4; here it needs no activations, since the
weights tell the channels' RMS (see channel_magnitudes.py).
"""

import numpy as np

from ...model.channel_scales import LayerScales
from .channel_magnitudes import Energies, hidden_rms, normed_rms, value_rms
from .dtypes import round_to

# Scale = RMS ** POWER. The square root balances the error of a channel with that of its neighbors in the group.
POWER = 0.5
_MIN_RELATIVE_RMS = 1e-3


def scales_from_weights(
    prefix: str,
    attention_norm: np.ndarray,
    mlp_norm: np.ndarray,
    channels: np.ndarray,
    energies: Energies,
    dtype: str,
) -> LayerScales:
    """Return a layer's scales as its weights suggest them.

    `prefix` is `model.layers.N`, `channels` (D,) the RMS of the residual stream's channels, `dtype` that of the
    stored norms.
    """
    attention_inputs, mlp_inputs = (normed_rms(norm, channels) for norm in (attention_norm, mlp_norm))
    return LayerScales(
        attention=norm_scales(attention_norm, attention_inputs, dtype),
        values=scales_of(value_rms(prefix, energies, attention_inputs)),
        mlp=norm_scales(mlp_norm, mlp_inputs, dtype),
        hidden=scales_of(hidden_rms(prefix, energies, mlp_inputs)),
    )


def scales_of(rms: np.ndarray, power: float = POWER) -> np.ndarray:
    """Return the scales of channels with the given RMS; their geometric mean is one."""
    floor = max(float(rms.max()) * _MIN_RELATIVE_RMS, 1e-12)
    logs = np.log(np.maximum(rms, floor).astype(np.float64)) * power
    return np.exp(logs - logs.mean()).astype(np.float32)


def norm_scales(norm: np.ndarray, rms: np.ndarray, dtype: str, power: float = POWER) -> np.ndarray:
    """Return scales by which the norm weight can be divided without a rounding error in its storage dtype."""
    scales = scales_of(rms, power)
    divided = round_to(norm / scales, dtype)
    exact = np.divide(norm, divided, out=np.ones_like(scales), where=divided != 0)
    return exact.astype(np.float32)
