"""The expected RMS of each input channel of a matrix, estimated from the weights alone.

A norm's output has the RMS of the residual stream's channel times the norm's weight; the embedding's columns give the
stream's RMS for all layers. Adding an estimate of what the layers write into the stream measured no better. The
estimate is then propagated: rows of v_proj make o_proj's inputs, rows of gate_proj and up_proj make down_proj's.
"""

from collections.abc import Callable

import numpy as np

# Gives the mean square (R,) of each row's product with inputs of the given RMS (C,), for a matrix by its name.
Energies = Callable[[str, np.ndarray], np.ndarray]


def normed_rms(norm: np.ndarray, channels: np.ndarray) -> np.ndarray:
    """Return the expected RMS (D,) of a norm's outputs for a stream of those channel RMS (D,)."""
    mean_square = float(np.square(channels).mean())
    return np.abs(norm) * channels / np.float32(np.sqrt(mean_square)) if mean_square else np.abs(norm)


def value_rms(prefix: str, energies: Energies, inputs: np.ndarray) -> np.ndarray:
    """Return the expected RMS (K * head_dim,) of the values of a layer `model.layers.N`.

    `inputs` (D,) are the RMS of v_proj's inputs.
    """
    return np.sqrt(energies(f"{prefix}.self_attn.v_proj.weight", inputs))


def hidden_rms(prefix: str, energies: Energies, inputs: np.ndarray) -> np.ndarray:
    """Return the expected RMS (F,) of down_proj's inputs in a layer whose MLP inputs have the RMS `inputs` (D,)."""
    gate, up = (energies(f"{prefix}.mlp.{part}_proj.weight", inputs) for part in ("gate", "up"))
    # silu of a variable of variance g has a mean square between g / 4 (small g) and g / 2 (large g).
    return np.sqrt(gate * (1 + gate) / (4 + 2 * gate) * up)


def row_energies(weights: np.ndarray, rms: np.ndarray) -> np.ndarray:
    """Return the mean square (R,) of rows (R, C) times inputs of that RMS whose channels are uncorrelated."""
    return np.square(weights) @ np.square(rms)
