"""Chooses how finely each fused matrix is stored, by what the fused model's logits say."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_unflatten

from ...adapters.adapter import Adapter
from ...adapters.adapter_set import AdapterSet
from ...dtypes import DTYPES
from ...errors import RequestError
from ...model.quantization import Scheme
from ...model.transformer import LlamaForCausalLM
from ...trees import scalar
from .fused_layers import Form, RoundedLayer

KEPT = 0.95
_FINE = Scheme(8, 32)


def choose_forms(
    model: LlamaForCausalLM,
    adapter: Adapter,
    layers: dict[str, nn.Module],
    tokens: mx.array,
    bits: str,
    dtype: mx.Dtype,
) -> tuple[dict[str, Form], float]:
    """Return the form of each fused layer and the share of the effect that is kept.

    `bits` is auto, a number of bits or a dtype's name; `dtype` is that of what isn't quantized.
    """
    base = _logits(model, tokens)
    adapters = AdapterSet(model)
    adapters.add("adapter", adapter)
    adapters.select("adapter")
    adapted = _logits(model, tokens)
    adapters.clear()
    effect = _distance(adapted, base)
    matrices = [path for path, layer in layers.items() if is_matrix(layer)]
    others: dict[str, Form] = {path: dtype for path in layers if path not in matrices}

    def kept(forms: dict[str, Form]) -> float:
        with _Rounded(model, adapter, layers, forms):
            distance = _distance(_logits(model, tokens), adapted)
        return 1 - distance / effect if effect else 1.0

    quantized = {path: scheme for path in matrices if (scheme := _scheme(layers[path]))}
    plain: dict[str, Form] = {**others, **{path: dtype for path in matrices if path not in quantized}}
    if bits != "auto":
        form = _requested(bits)
        forms = {**plain, **dict.fromkeys(quantized or matrices, form)}
        return forms, kept(forms)
    coarse: dict[str, Form] = {**plain, **quantized}
    share = kept(coarse)
    if share >= KEPT or not quantized:
        return coarse, share
    fine: dict[str, Form] = {**plain, **dict.fromkeys(quantized, _FINE)}
    share = kept(fine)
    if share >= KEPT:
        return fine, share
    worst = _worst_first(model, adapter, layers, fine, tokens, list(quantized))
    return _fewest_whole(fine, worst, kept)


def _fewest_whole(
    fine: dict[str, Form], worst: Sequence[str], kept: Callable[[dict[str, Form]], float]
) -> tuple[dict[str, Form], float]:
    """Return the forms with as few of the worst matrices in 16 bits as keep the effect, by bisection."""

    def forms(n: int) -> dict[str, Form]:
        return {**fine, **dict.fromkeys(worst[:n], mx.float16)}

    low, high = 0, len(worst)
    best = kept(forms(high))
    # A handful of measurements finds the number to within a few matrices.
    for _ in range(min(5, math.ceil(math.log2(high + 1)))):
        middle = (low + high) // 2
        share = kept(forms(middle))
        if share >= KEPT:
            high, best = middle, share
        else:
            low = middle
    return forms(high), best


def _worst_first(
    model: LlamaForCausalLM,
    adapter: Adapter,
    layers: dict[str, nn.Module],
    forms: dict[str, Form],
    tokens: mx.array,
    paths: Sequence[str],
) -> list[str]:
    """Return the paths, first those whose rounding moves their output furthest."""
    with _Rounded(model, adapter, layers, forms) as made:
        for layer in made.values():
            layer.probe = True
        mx.eval(model.hidden(tokens))
        return sorted(paths, key=lambda path: -made[path].error if path in made else 0.0)


class _Rounded:
    """A model whose fused layers are rounded, while the block runs."""

    def __init__(
        self, model: LlamaForCausalLM, adapter: Adapter, layers: dict[str, nn.Module], forms: dict[str, Form]
    ) -> None:
        self.model, self.layers = model, layers
        self.made = {
            path: RoundedLayer(path, layers[path], adapter, form)
            for path, form in forms.items()
            if is_matrix(layers[path])
        }
        self.made_others = {
            path: _with_full_tensors(path, layers[path], adapter) for path in forms if path not in self.made
        }

    def __enter__(self) -> dict[str, RoundedLayer]:
        self.model.update_modules(tree_unflatten([*self.made.items(), *self.made_others.items()]))
        return self.made

    def __exit__(self, *_: object) -> None:
        paths = [*self.made, *self.made_others]
        self.model.update_modules(tree_unflatten([(path, self.layers[path]) for path in paths]))


def _with_full_tensors(path: str, layer: nn.Module, adapter: Adapter) -> nn.Module:
    made: Any = nn.RMSNorm(1, eps=layer.eps)
    made.weight = adapter.full_tensors[f"{path}.weight"].astype(layer.weight.dtype)
    return made


def is_matrix(layer: Any) -> bool:
    """Return whether a layer is a linear layer or an embedding, quantized or not."""
    return isinstance(layer, nn.Linear | nn.QuantizedLinear | nn.Embedding | nn.QuantizedEmbedding)


def _scheme(layer: Any) -> Scheme | None:
    return Scheme(layer.bits, layer.group_size, layer.mode) if "scales" in layer else None


def _requested(bits: str) -> Form:
    if bits in DTYPES:
        return DTYPES[bits]
    if not bits.isdigit():
        raise RequestError(f"bits must be auto, a number or one of {', '.join(DTYPES)}, not {bits!r}")
    return Scheme(int(bits), 32 if int(bits) == 8 else 64)


def _logits(model: LlamaForCausalLM, tokens: mx.array) -> mx.array:
    logits = model(tokens)[0].astype(mx.float32)
    # A constant added to all logits of a position means nothing.
    logits = logits - logits.mean(axis=-1, keepdims=True)
    mx.eval(logits)
    return logits


def _distance(one: mx.array, other: mx.array) -> float:
    return scalar(mx.linalg.norm(one - other))
