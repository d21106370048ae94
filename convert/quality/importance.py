"""How large the values are that each input channel of a matrix meets, told by the weights alone.

A norm's output has the size of its weight. What follows is carried on: rows of v_proj make o_proj's inputs, rows of
gate_proj and up_proj make down_proj's.
"""

from collections.abc import Callable

import numpy as np

# Gives the mean square (R,) of each row's product with inputs of the given sizes (C,), for a matrix by its name.
Energies = Callable[[str, np.ndarray], np.ndarray]


def value_sizes(prefix: str, energies: Energies, norm: np.ndarray) -> np.ndarray:
    """Return the expected root mean square (K * head_dim,) of the values of a layer `model.layers.N`."""
    return np.sqrt(energies(f"{prefix}.self_attn.v_proj.weight", norm))


def hidden_sizes(prefix: str, energies: Energies, norm: np.ndarray) -> np.ndarray:
    """Return the expected root mean square (F,) of down_proj's inputs in a layer."""
    gate, up = (energies(f"{prefix}.mlp.{part}_proj.weight", norm) for part in ("gate", "up"))
    # silu of a variable of variance g has a mean square between g / 4 (small g) and g / 2 (large g).
    return np.sqrt(gate * (1 + gate) / (4 + 2 * gate) * up)


def row_energies(weights: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Return the mean square (R,) of rows (R, C) times inputs of those sizes whose channels are uncorrelated."""
    return np.square(weights) @ np.square(sizes)
