"""Joins q/k/v, and gate/up, into one matrix each for inference: four matrix products a layer instead of seven.

Saved files keep Hugging Face's separate names, and training works on the separate matrices.
"""

from collections.abc import Sequence

import mlx.core as mx
import mlx.nn as nn

from .transformer import LlamaForCausalLM


def join_projections(model: LlamaForCausalLM) -> None:
    """Join every layer's projections in place where they are alike: plain, or quantized by the same scheme.

    Layers are evaluated one by one, so that at most one layer's weights are in memory twice.
    """
    for layer in model.model.layers:
        join_layer(layer)
        mx.eval(layer.parameters())


def join_layer(layer: nn.Module) -> None:
    """Join the projections of one decoder layer, unevaluated."""
    _join(layer.self_attn, ("q_proj", "k_proj", "v_proj"), "qkv_proj")
    _join(layer.mlp, ("gate_proj", "up_proj"), "gate_up_proj")


def _join(module: nn.Module, names: Sequence[str], joined: str) -> None:
    parts = [module[name] for name in names]
    if len({_kind(part) for part in parts}) > 1 or type(parts[0]) not in (nn.Linear, nn.QuantizedLinear):
        return
    first = parts[0]
    for key in first.parameters():
        first[key] = mx.concatenate([part[key] for part in parts])
    module[joined] = first
    for name in names:
        del module[name]


def _kind(module: nn.Module) -> tuple[object, ...]:
    if isinstance(module, nn.QuantizedLinear):
        return (nn.QuantizedLinear, module.bits, module.group_size, module.mode, "bias" in module, module.scales.dtype)
    return (type(module), "bias" in module, module.weight.dtype if isinstance(module, nn.Linear) else None)
