"""Fully trained modules: weights kept in float32, computing in the dtype of the activations."""

from typing import Any

import mlx.core as mx
import mlx.nn as nn

from .lora import dense_weight


class MasterLinear(nn.Linear):
    """A linear layer with float32 weights."""

    def __call__(self, x: mx.array) -> mx.array:
        y = x @ self.weight.astype(x.dtype).T
        return y + self.bias.astype(x.dtype) if "bias" in self else y


class MasterNorm(nn.RMSNorm):
    """An RMS norm with a float32 weight."""

    def __call__(self, x: mx.array) -> mx.array:
        return mx.fast.rms_norm(x, self.weight.astype(x.dtype), self.eps)


class MasterEmbedding(nn.Embedding):
    """An embedding with float32 weights, whose rows are given in the dtype that it had."""

    _dtype = mx.float32

    def __call__(self, tokens: mx.array) -> mx.array:
        return self.weight[tokens].astype(self._dtype)

    def as_linear(self, x: mx.array) -> mx.array:
        """Return the logits of a tied head."""
        return x @ self.weight.astype(x.dtype).T


def make_full(module: Any) -> nn.Module:
    """Return a trainable layer of the same values, unpacked if it was quantized; its weights are float32."""
    weight = dense_weight(module)
    made: Any
    if isinstance(module, nn.Embedding | nn.QuantizedEmbedding):
        made = MasterEmbedding(1, 1)
        made._dtype = weight.dtype
    elif isinstance(module, nn.RMSNorm):
        made = MasterNorm(1, eps=module.eps)
    else:
        made = MasterLinear(1, 1, bias="bias" in module)
    made.weight = weight.astype(mx.float32)
    if "bias" in module:
        made.bias = module.bias.astype(mx.float32)
    made.unfreeze()
    return made
