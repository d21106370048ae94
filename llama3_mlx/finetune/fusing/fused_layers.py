"""An adapted layer as one matrix: the sum itself, and what rounding it does to the layer's output."""

from collections.abc import Mapping
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from ...adapters.adapter import EMBEDDING, Adapter, LowRank
from ...model.quantization import Scheme
from ...trees import scalar
from ..layers.lora import dense_weight

# A rounding of a fused matrix: a quantization, or a dtype.
Form = Scheme | mx.Dtype


def fused_weight(path: str, layer: Any, adapter: Adapter) -> mx.array:
    """Return the matrix of a layer with the adapter in it, float32."""
    full = adapter.full_tensors.get(f"{path}.weight")
    weight = (dense_weight(layer) if full is None else full).astype(mx.float32)
    part = adapter.parts.get(path)
    if part is None:
        return weight
    summed = weight + low_rank_matrix(path, part)
    if part.magnitude is None:
        return summed
    return summed * (part.magnitude / mx.linalg.norm(summed, axis=1))[:, None]


def low_rank_matrix(path: str, part: LowRank) -> mx.array:
    """Return scale * B A in the layout of the layer's matrix, float32."""
    a, b = part.a.astype(mx.float32), part.b.astype(mx.float32)
    return part.scale * (a @ b if path == EMBEDDING else (a @ b).T)


def round_trip(weight: mx.array, form: Form) -> mx.array:
    """Return the matrix after rounding to a form and back, float32."""
    if isinstance(form, Scheme):
        parts = mx.quantize(weight.astype(mx.float16), form.group_size, form.bits, mode=form.mode)
        biases = parts[2] if len(parts) > 2 else None
        back = mx.dequantize(parts[0], parts[1], biases, form.group_size, form.bits, mode=form.mode)
        return back.astype(mx.float32)
    return weight.astype(form).astype(mx.float32)


class RoundedLayer(nn.Module):
    """A fused layer that computes on its rounded matrix, made anew at each call so that only one is in memory.

    With `probe` it returns the exact output and notes how far the rounded one is from it.
    """

    def __init__(self, path: str, layer: nn.Module, adapter: Adapter, form: Form) -> None:
        super().__init__()
        self._path, self._layer, self._adapter, self.form = path, layer, adapter, form
        self.probe = False
        self.error = 0.0

    def __call__(self, x: mx.array) -> mx.array:
        exact = fused_weight(self._path, self._layer, self._adapter)
        if self._path == EMBEDDING:
            return round_trip(exact, self.form)[x].astype(dense_weight(self._layer).dtype)
        near = round_trip(exact, self.form)
        y = (x.astype(mx.float32) @ (exact if self.probe else near).T).astype(x.dtype)
        if self.probe:
            wrong = mx.linalg.norm(x.astype(mx.float32) @ (near - exact).T)
            self.error = scalar(wrong / mx.linalg.norm(y.astype(mx.float32)))
        bias = self._adapter.full_tensors.get(f"{self._path}.bias", self._layer.get("bias"))
        return y if bias is None else y + bias.astype(y.dtype)

    def as_linear(self, x: mx.array) -> mx.array:
        """Return the logits of a tied head."""
        weight = round_trip(fused_weight(self._path, self._layer, self._adapter), self.form)
        return (x.astype(mx.float32) @ weight.T).astype(x.dtype)


def fused_tensors(path: str, layer: Any, adapter: Adapter, form: Form) -> Mapping[str, mx.array]:
    """Return the tensors of a fused layer by parameter name, as they are stored."""
    weight = fused_weight(path, layer, adapter)
    made: dict[str, mx.array] = {}
    if isinstance(form, Scheme):
        parts = mx.quantize(weight.astype(mx.float16), form.group_size, form.bits, mode=form.mode)
        made = dict(zip((f"{path}.weight", f"{path}.scales", f"{path}.biases"), parts, strict=False))
    else:
        made[f"{path}.weight"] = weight.astype(form)
    bias = adapter.full_tensors.get(f"{path}.bias", layer.get("bias"))
    if bias is not None:
        made[f"{path}.bias"] = bias
    return made
