"""Frozen quantized layers in training: unpacked where they are used, on devices whose quantized products are slow.

MLX's CPU back end multiplies packed weights row by row, and a training row has hundreds of positions; unpacking first
and multiplying by BLAS is many times as fast. The unpacked matrix lives for one product, forward and backward.
"""

from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_unflatten

from ...device import back_end
from ...model.transformer import LlamaForCausalLM
from .lora import dense_weight

# Up to here the packed product is the faster one (measured on two cores).
_FEW_ROWS = 8


class UnpackedLinear(nn.QuantizedLinear):
    """A frozen quantized linear layer that computes on its unpacked matrix."""

    def __init__(self, layer: nn.QuantizedLinear) -> None:
        nn.Module.__init__(self)
        self.group_size, self.bits, self.mode = layer.group_size, layer.bits, layer.mode
        for name, array in layer.parameters().items():
            self[name] = array
        self.freeze()

        @mx.custom_function
        def product(x: mx.array) -> mx.array:
            return x @ dense_weight(self).astype(x.dtype).T

        @product.vjp
        def product_vjp(x: mx.array, cotangent: mx.array, _: mx.array) -> mx.array:
            return cotangent @ dense_weight(self).astype(x.dtype)

        self._product: Any = product

    def __call__(self, x: mx.array) -> mx.array:
        if x.size <= _FEW_ROWS * x.shape[-1]:
            return super().__call__(x)
        y: mx.array = self._product(x)
        return y + self.bias if "bias" in self else y


class UnpackedEmbedding(nn.QuantizedEmbedding):
    """A frozen quantized embedding; as a head it is unpacked once a step."""

    def __init__(self, layer: nn.QuantizedEmbedding) -> None:
        nn.Module.__init__(self)
        self.group_size, self.bits, self.mode = layer.group_size, layer.bits, layer.mode
        for name, array in layer.parameters().items():
            self[name] = array
        self.freeze()

    def __call__(self, tokens: mx.array) -> mx.array:
        biases = self["biases"][tokens] if "biases" in self else None
        return mx.dequantize(
            self["weight"][tokens], self["scales"][tokens], biases, self.group_size, self.bits, mode=self.mode
        )

    def as_linear(self, x: mx.array) -> mx.array:
        """Return the logits (..., V)."""
        return x @ dense_weight(self).astype(x.dtype).T


def unpack_for_training(model: LlamaForCausalLM) -> None:
    """Replace quantized layers by unpacking ones where that is faster: on the CPU."""
    if back_end().multiplies_packed:
        return
    made: list[tuple[str, Any]] = []
    for path, module in model.named_modules():
        if type(module) is nn.QuantizedLinear:
            made.append((path, UnpackedLinear(module)))
        elif type(module) is nn.QuantizedEmbedding:
            made.append((path, UnpackedEmbedding(module)))
    model.update_modules(tree_unflatten(made))
