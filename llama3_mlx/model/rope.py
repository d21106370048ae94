"""Rotary position embedding of the Llama family: the periods that `mx.fast.rope` takes, by scaling type."""

import math
from dataclasses import dataclass

import mlx.core as mx
import numpy as np


@dataclass(frozen=True)
class RopeScaling:
    """Scaling of the rotary frequencies. `rope_type` is default, linear, dynamic or llama3."""

    rope_type: str = "default"
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_max_position_embeddings: int = 8192


def rope_periods(head_dim: int, theta: float, scaling: RopeScaling) -> mx.array:
    """Return 1 / (rotary frequency) of each pair, (head_dim // 2,) float32, for `mx.fast.rope(freqs=...)`.

    linear: every period times the factor. llama3: periods whose wavelength exceeds the original context over
    `low_freq_factor` times the factor, short ones unchanged, a linear blend of the frequencies between.
    dynamic: unchanged here, since it depends on the length (see `dynamic_periods`).
    Source: meta-llama/llama-models `apply_scaling`; transformers `modeling_rope_utils.py`.
    """
    exponents = np.arange(0, head_dim, 2, dtype=np.float64) / head_dim
    periods = theta**exponents
    if scaling.rope_type == "linear":
        periods = periods * scaling.factor
    elif scaling.rope_type == "llama3":
        wavelengths = 2 * math.pi * periods
        context = scaling.original_max_position_embeddings
        low, high = scaling.low_freq_factor, scaling.high_freq_factor
        smooth = np.clip((context / wavelengths - low) / (high - low), 0.0, 1.0)
        periods = 1.0 / (smooth / periods + (1.0 - smooth) / (periods * scaling.factor))
    return mx.array(periods.astype(np.float32))


def dynamic_periods(head_dim: int, theta: float, scaling: RopeScaling, length: int, max_positions: int) -> mx.array:
    """Return the periods for a sequence of `length` positions under dynamic NTK scaling.

    Up to `max_positions` nothing changes; beyond, theta grows with the length. Source: transformers
    `_compute_dynamic_ntk_parameters`.
    """
    length = max(length, max_positions)
    growth = scaling.factor * length / max_positions - (scaling.factor - 1)
    return rope_periods(head_dim, theta * growth ** (head_dim / (head_dim - 2)), RopeScaling())
