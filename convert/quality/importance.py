"""How much each input channel of a matrix matters, told by the weights alone.

A norm's output has a mean square near its squared weight. What follows is carried on: rows of v_proj make o_proj's
inputs, rows of gate_proj and up_proj make down_proj's.
"""

from collections.abc import Callable

import numpy as np

from ...config import ModelConfig

Read = Callable[[str], np.ndarray]


def data_free_importance(path: str, read: Read, config: ModelConfig) -> np.ndarray:
    """Return the expected mean square (C,) of each input channel of the matrix at `path`; `read` gives tensors."""
    layer, _, name = path.rpartition(".")
    if name in ("embed_tokens", "lm_head"):
        return np.square(read("model.norm.weight"))
    block = layer.rpartition(".")[0]
    attention_in = np.square(read(f"{block}.input_layernorm.weight"))
    mlp_in = np.square(read(f"{block}.post_attention_layernorm.weight"))
    if name in ("q_proj", "k_proj", "v_proj"):
        return attention_in
    if name in ("gate_proj", "up_proj"):
        return mlp_in
    if name == "o_proj":
        values = np.square(read(f"{block}.self_attn.v_proj.weight")) @ attention_in
        heads = values.reshape(config.num_key_value_heads, config.head_dim)
        return np.repeat(heads, config.num_attention_heads // config.num_key_value_heads, axis=0).reshape(-1)
    gate, up = (np.square(read(f"{block}.mlp.{part}_proj.weight")) @ mlp_in for part in ("gate", "up"))
    # silu of a variable of variance g has a mean square between g / 4 (small g) and g / 2 (large g).
    return gate * (1 + gate) / (4 + 2 * gate) * up
