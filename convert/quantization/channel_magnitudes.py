"""How large the values are that each input channel of a matrix meets, told by the weights alone.

A norm's output has the size of its weight times that of the residual stream's channel, which the embedding's columns
tell for all layers. What the layers add to the stream could be reckoned on, too, but measured no better than that. What
follows is carried on: rows of v_proj make o_proj's inputs, rows of gate_proj and up_proj make down_proj's.
"""

from collections.abc import Callable

import numpy as np

# Gives the mean square (R,) of each row's product with inputs of the given sizes (C,), for a matrix by its name.
Energies = Callable[[str, np.ndarray], np.ndarray]


def normed_sizes(norm: np.ndarray, channels: np.ndarray) -> np.ndarray:
    """Return the expected root mean square (D,) of what a norm puts out for a stream of those channel sizes (D,)."""
    mean_square = float(np.square(channels).mean())
    return np.abs(norm) * channels / np.float32(np.sqrt(mean_square)) if mean_square else np.abs(norm)


def value_sizes(prefix: str, energies: Energies, inputs: np.ndarray) -> np.ndarray:
    """Return the expected root mean square (K * head_dim,) of the values of a layer `model.layers.N`.

    `inputs` (D,) are the sizes of what v_proj meets.
    """
    return np.sqrt(energies(f"{prefix}.self_attn.v_proj.weight", inputs))


def hidden_sizes(prefix: str, energies: Energies, inputs: np.ndarray) -> np.ndarray:
    """Return the expected root mean square (F,) of down_proj's inputs in a layer whose MLP meets `inputs` (D,)."""
    gate, up = (energies(f"{prefix}.mlp.{part}_proj.weight", inputs) for part in ("gate", "up"))
    # silu of a variable of variance g has a mean square between g / 4 (small g) and g / 2 (large g).
    return np.sqrt(gate * (1 + gate) / (4 + 2 * gate) * up)


def row_energies(weights: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Return the mean square (R,) of rows (R, C) times inputs of those sizes whose channels are uncorrelated."""
    return np.square(weights) @ np.square(sizes)
