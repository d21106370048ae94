"""Products of quantized matrices where packed ones are slow, which is on the CPU: unpacked first, then by BLAS.

MLX's CPU back end multiplies packed weights row by row without BLAS. From a few rows on (a prompt, a batch, a training
row) it is many times as fast to unpack the matrix block by block and multiply each block by BLAS; a block lives for
one product, forward and once more backward.
"""

from collections.abc import Callable, Iterator
from typing import Any, cast

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_unflatten

from ..device import unpacks_products
from .quantization import Scheme

# From here on unpacking pays (measured on two cores: a block is unpacked in the time of about three packed rows).
UNPACK_ROWS = 4
# Values of a block: what its unpacked form takes is written to and read from the processor's cache.
_BLOCK_VALUES = 2**21


class UnpackedLinear(nn.QuantizedLinear):
    """A frozen quantized linear layer that computes on its unpacked matrix from a few rows on."""

    def __init__(self, layer: nn.QuantizedLinear) -> None:
        nn.Module.__init__(self)
        _take_over(self, layer)
        self._product = _differentiable(self)

    def __call__(self, x: mx.array) -> mx.array:
        if x.size < UNPACK_ROWS * x.shape[-1]:
            return super().__call__(x)
        y = self._product(x)
        return y + self.bias if "bias" in self else y


class UnpackedEmbedding(nn.QuantizedEmbedding):
    """A frozen quantized embedding whose use as a head works as in UnpackedLinear."""

    def __init__(self, layer: nn.QuantizedEmbedding) -> None:
        nn.Module.__init__(self)
        _take_over(self, layer)
        self._product = _differentiable(self)

    def __call__(self, tokens: mx.array) -> mx.array:
        biases = self["biases"][tokens] if "biases" in self else None
        return mx.dequantize(
            self["weight"][tokens], self["scales"][tokens], biases, self.group_size, self.bits, mode=self.mode
        )

    def as_linear(self, x: mx.array) -> mx.array:
        """Return the logits (..., V)."""
        if x.size < UNPACK_ROWS * x.shape[-1]:
            return super().as_linear(x)
        return self._product(x)


def _take_over(new: Any, layer: Any) -> None:
    """Give `new` the arrays and the scheme of `layer`."""
    new.group_size, new.bits, new.mode = layer.group_size, layer.bits, layer.mode
    for name, array in layer.parameters().items():
        new[name] = array
    new.freeze()


def _differentiable(layer: Any) -> Callable[[mx.array], mx.array]:
    """Return the product with a layer's matrix, unpacked block by block forward and once more backward."""

    @mx.custom_function
    def product(x: mx.array) -> mx.array:
        parts = [x @ block.astype(x.dtype).T for _, block in blocks(layer)]
        return parts[0] if len(parts) == 1 else mx.concatenate(parts, axis=-1)

    @product.vjp
    def product_vjp(x: mx.array, cotangent: mx.array, _: mx.array) -> mx.array:
        parts = [cotangent[..., rows] @ block.astype(x.dtype) for rows, block in blocks(layer)]
        total = parts[0]
        for part in parts[1:]:
            total = total + part
        return total

    return cast(Callable[[mx.array], mx.array], product)


def blocks(layer: Any) -> Iterator[tuple[slice, mx.array]]:
    """Yield the unpacked rows of a quantized layer in blocks, each with its place."""
    weight, scales, biases = layer["weight"], layer["scales"], layer.get("biases")
    scheme = Scheme(layer.bits, layer.group_size, layer.mode)
    step = max(1, _BLOCK_VALUES // (weight.shape[-1] * 32 // layer.bits))
    for start in range(0, weight.shape[0], step):
        rows = slice(start, min(start + step, weight.shape[0]))
        yield rows, unpack(weight[rows], scales[rows], None if biases is None else biases[rows], scheme)


def unpack(weight: mx.array, scales: mx.array, biases: mx.array | None, scheme: Scheme) -> mx.array:
    """Return the values (rows, columns) that packed words, scales and biases stand for, in the scales' dtype.

    The same values as `mx.dequantize`, which on the CPU takes two to three times as long for whole nibbles and bytes.
    """
    bits, size = scheme.bits, scheme.group_size
    if scheme.mode != "affine" or biases is None or bits not in (2, 4, 8):
        return mx.dequantize(weight, scales, biases, size, bits, mode=scheme.mode)
    if bits == 8:
        codes = weight.view(mx.uint8)
    else:
        shifts = mx.arange(0, 32, bits, dtype=mx.uint32)
        codes = (weight[..., None] >> shifts) & (2**bits - 1)
    groups = codes.reshape(*scales.shape, size).astype(scales.dtype)
    values = groups * scales[..., None] + biases[..., None]
    return values.reshape(*scales.shape[:-1], -1)


def unpack_products(model: nn.Module) -> None:
    """Replace quantized layers by unpacking ones where that is faster: on the CPU."""
    if not unpacks_products():
        return
    made: list[tuple[str, Any]] = []
    for path, module in model.named_modules():
        if type(module) is nn.QuantizedLinear:
            made.append((path, UnpackedLinear(module)))
        elif type(module) is nn.QuantizedEmbedding:
            made.append((path, UnpackedEmbedding(module)))
    model.update_modules(tree_unflatten(made))
