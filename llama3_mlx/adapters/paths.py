"""Where a projection lies in a model, whose projections may be joined for inference."""

from typing import Any

import mlx.nn as nn

from ..model.transformer import LlamaForCausalLM

JOINED = {"qkv_proj": ("q_proj", "k_proj", "v_proj"), "gate_up_proj": ("gate_proj", "up_proj")}


def holder_path(model: LlamaForCausalLM, path: str) -> str:
    """Return the path of the layer that holds `path` in a model whose projections may be joined."""
    parent, _, name = path.rpartition(".")
    for joined, names in JOINED.items():
        if name in names and joined in module_at(model, parent):
            return f"{parent}.{joined}"
    return path


def module_at(model: LlamaForCausalLM, path: str) -> nn.Module:
    """Return the module at a path."""
    module: Any = model
    for key in path.split("."):
        module = module[int(key)] if isinstance(module, list) else module[key]
    return module


def part_sizes(path: str, model: LlamaForCausalLM) -> dict[str, int]:
    """Return path and number of outputs of the projections that make up the layer at `path`."""
    parent, _, name = path.rpartition(".")
    config = model.config
    kv = config.num_key_value_heads * config.head_dim
    sizes = {
        "q_proj": config.num_attention_heads * config.head_dim,
        "k_proj": kv,
        "v_proj": kv,
        "gate_proj": config.intermediate_size,
        "up_proj": config.intermediate_size,
    }
    if name in JOINED:
        return {f"{parent}.{part}": sizes[part] for part in JOINED[name]}
    return {path: sizes.get(name) or (config.vocab_size if name == "lm_head" else config.hidden_size)}
