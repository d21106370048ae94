"""Layers with a trainable low-rank term beside a frozen matrix: LoRA and DoRA, on linear layers and embeddings.

Shapes and parameter names are mlx-lm's: `lora_a` (in, r), `lora_b` (r, out), magnitude `m` (out,). The low-rank
parameters are float32 whatever the base is, and are cast to the dtype of the activations where they are used, so that
a half-precision model computes in half precision and the optimizer still sees float32.

Source: LoRA https://arxiv.org/abs/2106.09685; DoRA https://arxiv.org/abs/2402.09353.
"""

import math
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from ...errors import RequestError
from .dropout import Dropout


class Adapted(nn.Module):
    """A layer with a low-rank term; the parameters to train are those of its own, not of the layer under it."""

    _dropout: Dropout | None

    def dropped(self, x: mx.array) -> mx.array:
        """Return x after dropout, while training."""
        return self._dropout(x, self.training) if self._dropout else x


class LoRALinear(Adapted):
    """W x + scale * B A x, with `lora_a` = A^T and `lora_b` = B^T; B starts at zero."""

    def __init__(self, linear: nn.Module, rank: int, scale: float, dropout: Dropout | None = None) -> None:
        super().__init__()
        rows, columns = matrix_shape(linear)
        self.linear = linear
        self.scale = scale
        self._dropout = dropout
        self.lora_a = uniform((columns, rank), columns)
        self.lora_b = mx.zeros((rank, rows))
        linear.freeze()

    def low_rank(self, x: mx.array) -> mx.array:
        """Return scale * B A x in the dtype of x."""
        down = self.dropped(x) @ self.lora_a.astype(x.dtype)
        return down @ (self.scale * self.lora_b).astype(x.dtype)

    def __call__(self, x: mx.array) -> mx.array:
        return self.linear(x) + self.low_rank(x)


class DoRALinear(LoRALinear):
    """m * (W + scale * B A) x / ||W + scale * B A||, the norm taken for each output and held constant in the gradient.

    The norm follows from ||W||^2, W A^T and A A^T, so that the sum of both matrices is never built.
    """

    def __init__(self, linear: nn.Module, rank: int, scale: float, dropout: Dropout | None = None) -> None:
        super().__init__(linear, rank, scale, dropout)
        self._squared_norm = squared_row_norms(linear)
        self.m = mx.sqrt(self._squared_norm)

    def gain(self) -> mx.array:
        """Return m / ||W + scale * B A||, (out,) float32."""
        a, b = mx.stop_gradient(self.lora_a), mx.stop_gradient(self.lora_b).T
        crossed = without_bias(self.linear, a.T)
        squared = (
            self._squared_norm
            + 2 * self.scale * (b * crossed.T.astype(mx.float32)).sum(-1)
            + self.scale**2 * ((b @ (a.T @ a)) * b).sum(-1)
        )
        return self.m / mx.sqrt(mx.maximum(squared, 1e-12))

    def __call__(self, x: mx.array) -> mx.array:
        y = without_bias(self.linear, x) + self.low_rank(x)
        y = self.gain().astype(x.dtype) * y
        return y + self.linear.bias if "bias" in self.linear else y


class LoRAEmbedding(Adapted):
    """E[token] + scale * A[token] B, with `lora_a` (V, r) and `lora_b` (r, D); serves a tied head too."""

    def __init__(self, embedding: nn.Module, rank: int, scale: float, dropout: Dropout | None = None) -> None:
        super().__init__()
        rows, columns = matrix_shape(embedding)
        self.embedding = embedding
        self.scale = scale
        self._dropout = dropout
        self.lora_a = uniform((rows, rank), rows)
        self.lora_b = mx.zeros((rank, columns))
        embedding.freeze()

    def __call__(self, tokens: mx.array) -> mx.array:
        y = self.embedding(tokens)
        return y + (self.scale * self.dropped(self.lora_a[tokens] @ self.lora_b)).astype(y.dtype)

    def as_linear(self, x: mx.array) -> mx.array:
        """Return the logits (..., V) of hidden states (..., D)."""
        up = self.dropped(x) @ (self.scale * self.lora_b).T.astype(x.dtype)
        return self.embedding.as_linear(x) + up @ self.lora_a.T.astype(x.dtype)


def make_adapted(module: nn.Module, rank: int, scale: float, dropout: Dropout | None, *, dora: bool) -> Adapted:
    """Return the layer that adapts `module`; raises RequestError for what can't be adapted."""
    if isinstance(module, nn.Embedding | nn.QuantizedEmbedding):
        if dora:
            raise RequestError("DoRA is for linear layers: leave embed_tokens out of the targets or train LoRA")
        return LoRAEmbedding(module, rank, scale, dropout)
    return (DoRALinear if dora else LoRALinear)(module, rank, scale, dropout)


def base_layer(module: nn.Module) -> nn.Module:
    """Return the layer under an adapted one, or the layer itself."""
    if isinstance(module, LoRALinear):
        return module.linear
    return module.embedding if isinstance(module, LoRAEmbedding) else module


def uniform(shape: tuple[int, int], fan_in: int) -> mx.array:
    """Return values uniform in ±1/sqrt(fan_in). Source: PEFT's and mlx-lm's initialization of A."""
    limit = 1 / math.sqrt(fan_in)
    return mx.random.uniform(-limit, limit, shape)


def matrix_shape(module: Any) -> tuple[int, int]:
    """Return (rows, columns) of a linear layer's or embedding's matrix, unpacked if it is quantized."""
    rows, columns = module.weight.shape
    return rows, columns * 32 // module.bits if "scales" in module else columns


def dense_weight(module: Any) -> mx.array:
    """Return the matrix of a linear layer or embedding, dequantized if need be."""
    if "scales" not in module:
        return module.weight
    return mx.dequantize(
        module.weight, module.scales, module.get("biases"), module.group_size, module.bits, mode=module.mode
    )


def squared_row_norms(module: Any) -> mx.array:
    """Return ||W||^2 of each row, (out,) float32."""
    return mx.square(dense_weight(module).astype(mx.float32)).sum(-1)


def without_bias(linear: Any, x: mx.array) -> mx.array:
    """Return W x of a linear layer."""
    y = linear(x)
    return y - linear.bias if "bias" in linear else y
