"""Low-rank adaptation of linear layers: y = W x + scale * (x A) B. Source: https://arxiv.org/abs/2106.09685.

Layout is mlx-lm's: `lora_a` (in, r), `lora_b` (r, out), and a plain factor `scale`, which is alpha / r elsewhere.
"""

import math
from typing import Any

import mlx.core as mx
import mlx.nn as nn


class LoRALinear(nn.Module):
    """A frozen linear layer, plain or quantised, with a trainable update of rank r beside it."""

    def __init__(self, linear: nn.Module, rank: int, scale: float, dropout: float = 0.0) -> None:
        super().__init__()
        n_out, n_in = weight_shape(linear)
        self.linear = linear
        self.scale = scale
        self.dropout = nn.Dropout(dropout)
        bound = 1 / math.sqrt(n_in)
        self.lora_a = mx.random.uniform(-bound, bound, (n_in, rank))
        self.lora_b = mx.zeros((rank, n_out))

    def __call__(self, x: mx.array) -> mx.array:
        y = self.linear(x)
        update = (self.dropout(x) @ self.lora_a) @ self.lora_b
        return y + (self.scale * update).astype(y.dtype)


def weight_shape(linear: nn.Module) -> tuple[int, int]:
    """Return (out, in) of a linear layer or an embedding, of a quantised one too."""
    weight: mx.array = linear["weight"]
    n_in = weight.shape[1]
    if isinstance(linear, nn.QuantizedLinear | nn.QuantizedEmbedding):
        n_in = n_in * 32 // linear.bits
    return weight.shape[0], n_in


def module_at(model: nn.Module, path: str) -> Any:
    """Return the module at a dotted path; raises KeyError if there is none."""
    module: Any = model
    for part in path.split("."):
        module = module[int(part)] if isinstance(module, list) else module[part]
    return module


def replace_module(model: nn.Module, path: str, new: nn.Module) -> None:
    """Put `new` at a dotted path."""
    parent, _, name = path.rpartition(".")
    owner = module_at(model, parent) if parent else model
    owner[int(name) if isinstance(owner, list) else name] = new
