"""Products of quantized matrices where packed ones are slow, which is on the CPU: unpacked first, or over all cores.

MLX's CPU back end multiplies packed weights row by row, without BLAS and on one core. From a few rows on (a prompt, a
batch, a training row) it is many times as fast to unpack the matrix block by block and multiply each block by BLAS; a
block lives for one product, forward and once more backward. Fewer rows, as a decode step has, are multiplied packed:
the outputs are split over streams, each of which has a core.

Where a model is small beside the machine's memory, its unpacked matrices are kept, and all products are BLAS's. Which
it is follows from the model and the machine alone, so that the same seed gives the same text on every run.
"""

import itertools
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, cast

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_unflatten

from ..device import product_streams, unpacks_products
from ..units import size_text
from .column_order import by_columns
from .quantization import Scheme

# Values of a block: what its unpacked form takes is written to and read from the processor's cache.
_BLOCK_VALUES = 2**19
# Values from which a part of a packed product outweighs the handing over between streams (measured: 2^17 take 0.1 ms).
_PART_VALUES = 2**17


def unpack_rows() -> int:
    """Return from how many rows on unpacking pays: more with more cores, which a packed product uses all.

    Measured: a matrix is unpacked and multiplied in the time of 3.5 packed rows on one core, of 5 on two.
    """
    return 2 + 2 * len(product_streams())


class UnpackedLinear(nn.QuantizedLinear):
    """A frozen quantized linear layer that computes on its unpacked matrix from a few rows on."""

    def __init__(self, layer: nn.QuantizedLinear, *, keep: bool = False) -> None:
        """`keep` its unpacked matrix from the first product on."""
        nn.Module.__init__(self)
        _take_over(self, layer)
        self._products = _Products(keep)

    def __call__(self, x: mx.array) -> mx.array:
        y = self._products(self, x)
        return y + self.bias if "bias" in self else y


class UnpackedEmbedding(nn.QuantizedEmbedding):
    """A frozen quantized embedding whose use as a head works as in UnpackedLinear."""

    def __init__(self, layer: nn.QuantizedEmbedding, *, keep: bool = False) -> None:
        """`keep` its unpacked matrix from the first product as a head on."""
        nn.Module.__init__(self)
        _take_over(self, layer)
        self._products = _Products(keep)

    def __call__(self, tokens: mx.array) -> mx.array:
        biases = self["biases"][tokens] if "biases" in self else None
        return mx.dequantize(
            self["weight"][tokens], self["scales"][tokens], biases, self.group_size, self.bits, mode=self.mode
        )

    def as_linear(self, x: mx.array) -> mx.array:
        """Return the logits (..., V)."""
        return self._products(self, x)


class _Products:
    """The products with a layer's matrix, in the way that suits the number of rows.

    The layer is told at each: in a cycle with it, an unloaded model would stay in memory until Python looks for cycles.
    """

    def __init__(self, keeps: bool) -> None:
        self._keeps = keeps
        self._made_of: mx.array | None = None
        self._parts: list[list[mx.array]] = []
        self._unpacked: mx.array | None = None

    def __call__(self, layer: Any, x: mx.array) -> mx.array:
        if self._made_of is not layer["weight"]:
            self._made_of, self._parts, self._unpacked = layer["weight"], [], None
        if self._keeps:
            return x @ self._kept(layer, x.dtype).T
        return self._of_packed(layer, x) if x.size < unpack_rows() * x.shape[-1] else _differentiable(layer)(x)

    def _kept(self, layer: Any, dtype: mx.Dtype) -> mx.array:
        unpacked = self._unpacked
        if unpacked is None or unpacked.dtype != dtype:
            unpacked = by_columns(mx.concatenate(_by_blocks(layer, mx.array(0, dtype), lambda block, _: block)))
            mx.eval(unpacked)
            self._unpacked = unpacked
        return unpacked

    def _of_packed(self, layer: Any, x: mx.array) -> mx.array:
        """Return the product with the packed matrix, its outputs split over streams: the same values bit for bit."""
        streams = product_streams()
        parts = self._parts
        if not parts:
            parts = self._parts = _split(layer, len(streams))
        if len(parts) == 1:
            return _multiplied(layer, x, parts[0], None)
        pairs = zip(parts, streams, strict=False)
        return mx.concatenate([_multiplied(layer, x, part, stream) for part, stream in pairs], axis=-1)


def _multiplied(layer: Any, x: mx.array, part: list[mx.array], stream: mx.ThreadLocalStream | None) -> mx.array:
    weight, scales, *biases = part
    product: Callable[..., mx.array] = mx.quantized_matmul
    scheme = {"group_size": layer.group_size, "bits": layer.bits, "mode": layer.mode}
    return product(x, weight, scales, *biases, transpose=True, stream=stream, **scheme)


def _split(layer: Any, most: int) -> list[list[mx.array]]:
    """Return weights, scales and biases in at most so many parts of whole outputs, which share the layer's memory."""
    arrays = [layer[name] for name in ("weight", "scales", "biases") if name in layer]
    outputs, words = layer["weight"].shape
    count = max(1, min(most, outputs * words * 32 // layer.bits // _PART_VALUES, outputs))
    if count == 1:
        return [arrays]
    ends = [outputs * number // count for number in range(count + 1)]
    parts = [[array[start:stop] for array in arrays] for start, stop in itertools.pairwise(ends)]
    mx.eval(parts)
    return parts


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
        parts = _by_blocks(layer, x, lambda block, _: x @ block.T)
        return parts[0] if len(parts) == 1 else mx.concatenate(parts, axis=-1)

    @product.vjp
    def product_vjp(_: mx.array, cotangent: mx.array, _output: mx.array) -> mx.array:
        parts = _by_blocks(layer, cotangent, lambda block, rows: cotangent[..., rows] @ block)
        total = parts[0]
        for part in parts[1:]:
            total = total + part
        return total

    return cast(Callable[[mx.array], mx.array], product)


def _by_blocks(layer: Any, x: mx.array, product: Callable[[mx.array, slice], mx.array]) -> list[mx.array]:
    """Return the product with each unpacked block of a layer's rows in x's dtype; several cores unpack in turns.

    A block waits for a product before it, or for x: otherwise MLX unpacks the blocks of layers to come, too, and keeps
    them (a 1B's prompt: 630 MB beyond the packed weights, in place of 30).
    """
    weight, scales, biases = layer["weight"], layer["scales"], layer.get("biases")
    scheme = Scheme(layer.bits, layer.group_size, layer.mode)
    outputs, words = weight.shape
    step = -(-outputs // -(-outputs * words * 32 // layer.bits // _BLOCK_VALUES))
    streams = product_streams()
    found: list[mx.array] = []
    for start, stream in zip(range(0, outputs, step), itertools.cycle(streams), strict=False):
        rows = slice(start, min(start + step, outputs))
        earlier = found[-len(streams)] if len(found) >= len(streams) else x
        with mx.stream(stream) if stream else nullcontext():
            packed = mx.depends(weight[rows], earlier)
            block = unpack(packed, scales[rows], None if biases is None else biases[rows], scheme)
        found.append(product(block.astype(x.dtype), rows))
    return found


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


def products_description(kept_bytes: int) -> str:
    """Return how products of quantized matrices are computed on this device, in a few words."""
    if not unpacks_products():
        return "packed"
    if kept_bytes:
        return f"unpacked, by BLAS ({size_text(kept_bytes)} beside the packed matrices)"
    cores = len(product_streams())
    return f"packed, on {cores} core{'s' * (cores > 1)}; from {unpack_rows()} tokens at once on unpacked, by BLAS"


def unpack_products(model: nn.Module, *, keep: bool = False) -> None:
    """Replace quantized layers by unpacking ones where that is faster: on the CPU; `keep` what they unpack."""
    if not unpacks_products():
        return
    made: list[tuple[str, Any]] = []
    for path, module in model.named_modules():
        if type(module) is nn.QuantizedLinear:
            made.append((path, UnpackedLinear(module, keep=keep)))
        elif type(module) is nn.QuantizedEmbedding:
            made.append((path, UnpackedEmbedding(module, keep=keep)))
    model.update_modules(tree_unflatten(made))
