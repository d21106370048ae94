"""Layers with the low-rank terms of several adapters beside their own matrix, each weighed by what counts now."""

from collections.abc import Mapping, Sequence
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from ..finetune.layers.attach import make_dense
from ..finetune.layers.lora import dense_weight, without_bias
from ..model.transformer import LlamaForCausalLM
from .adapter import LowRank
from .paths import part_sizes


class Weights:
    """How much each adapter counts, shared by all layers: one number for all rows, or one for each row of a batch."""

    def __init__(self) -> None:
        self.values: mx.array | None = None
        self.any = False
        # All adapters with weight one: nothing needs to be weighed.
        self.plain = False

    def of(self, owners: mx.array, like: mx.array) -> mx.array:
        """Return the weights of low-rank columns that belong to the adapters numbered `owners`.

        They broadcast to (B, r) or (B, L, r) for `like` of two or three dimensions, in its dtype.
        """
        assert self.values is not None, "weights are set where adapters are"
        weights = self.values[:, owners].astype(like.dtype)
        return weights if like.ndim == 2 else weights[:, None]


class Switched(nn.Module):
    """A layer, or another in its place while an adapter is on."""

    def __init__(self, base: nn.Module, replaced: nn.Module, weights: Weights) -> None:
        super().__init__()
        self.base, self.replaced, self._weights = base, replaced, weights

    def chosen(self) -> Any:
        """Return the layer that counts now."""
        return self.replaced if self._weights.any else self.base

    def __call__(self, x: mx.array) -> mx.array:
        return self.chosen()(x)


class MixedLinear(Switched):
    """A linear layer, joined or not, with the low-rank terms of several adapters."""

    def __init__(
        self,
        base: nn.Module,
        replaced: nn.Module,
        terms: Sequence[Sequence[LowRank | None]],
        sizes: Sequence[int],
        weights: Weights,
        dtype: mx.Dtype,
    ) -> None:
        """`terms` holds for each adapter its parts of the outputs, whose `sizes` make up the layer's outputs.

        They compute in `dtype`, the model's: the scales of some quantized layers are integers.
        """
        super().__init__(base, replaced, weights)
        downs, ups, owners = [], [], []
        for number, parts in enumerate(terms):
            for at, part in enumerate(parts):
                if part is None:
                    continue
                downs.append(part.a)
                ups.append(mx.pad(part.b * part.scale, [(0, 0), (sum(sizes[:at]), sum(sizes[at + 1 :]))]))
                owners += [number] * part.rank
        if downs:
            self.down = mx.concatenate(downs, axis=1).astype(dtype)
            self.up = mx.concatenate(ups, axis=0).astype(dtype)
            self._owners = mx.array(owners)
        self._gain = _gains(replaced, terms, sizes, dtype)

    def __call__(self, x: mx.array) -> mx.array:
        layer, weights = self.chosen(), self._weights
        if not weights.any or "down" not in self:
            return layer(x)
        inner = x @ self.down
        low_rank = (inner if weights.plain else inner * weights.of(self._owners, x)) @ self.up
        if self._gain is None:
            return layer(x) + low_rank
        y = self._gain * (without_bias(layer, x) + low_rank)
        return y + layer.bias if "bias" in layer else y


class MixedEmbedding(Switched):
    """An embedding, and the head tied to it, with the low-rank terms of several adapters."""

    def __init__(
        self,
        base: nn.Module,
        replaced: nn.Module,
        parts: Sequence[LowRank | None],
        weights: Weights,
        dtype: mx.Dtype,
    ) -> None:
        super().__init__(base, replaced, weights)
        present = [(number, part) for number, part in enumerate(parts) if part is not None]
        if present:
            self.down = mx.concatenate([part.a for _, part in present], axis=1).astype(dtype)
            self.up = mx.concatenate([part.b * part.scale for _, part in present], axis=0).astype(dtype)
            self._owners = mx.array([number for number, part in present for _ in range(part.rank)])

    def __call__(self, tokens: mx.array) -> mx.array:
        y = self.chosen()(tokens)
        if not self._weights.any or "down" not in self:
            return y
        return y + (self.down[tokens] * self._weights.of(self._owners, y)) @ self.up

    def as_linear(self, x: mx.array) -> mx.array:
        """Return the logits (..., V) of hidden states (B, D) or (B, L, D)."""
        y = self.chosen().as_linear(x)
        if not self._weights.any or "down" not in self:
            return y
        return y + ((x @ self.up.T) * self._weights.of(self._owners, x)) @ self.down.T


def with_full_tensors(
    path: str, base: nn.Module, model: LlamaForCausalLM, full_tensors: Mapping[str, mx.array]
) -> nn.Module:
    """Return the layer with an adapter's fully trained tensors for its own; the base itself without any."""
    is_linear = isinstance(base, nn.Linear | nn.QuantizedLinear)
    parts = part_sizes(path, model) if is_linear else {path: 0}
    if not any(f"{part}.{name}" in full_tensors for part in parts for name in ("weight", "bias")):
        return base
    old: Any = make_dense(base)
    new = _twin(old)
    for name in ("weight", "bias"):
        if name not in old:
            continue
        at, pieces = 0, []
        for part, size in parts.items():
            own = old[name][at : at + size] if is_linear else old[name]
            pieces.append(full_tensors.get(f"{part}.{name}", own).astype(own.dtype))
            at += size
        new[name] = mx.concatenate(pieces) if len(pieces) > 1 else pieces[0]
    return new


def _twin(module: Any) -> Any:
    """Return a layer of the same kind and the same arrays."""
    twin = module.__class__.__new__(module.__class__)
    twin.__dict__.update(module.__dict__)
    dict.update(twin, module)
    return twin


def _gains(
    layer: nn.Module, terms: Sequence[Sequence[LowRank | None]], sizes: Sequence[int], dtype: mx.Dtype
) -> mx.array | None:
    """Return DoRA's m / ||W + scale * B A|| for each output, None without DoRA; a DoRA adapter is alone."""
    magnitudes = [part.magnitude for parts in terms for part in parts if part is not None]
    if not any(magnitude is not None for magnitude in magnitudes):
        return None
    weight = dense_weight(layer).astype(mx.float32)
    gains, at = [], 0
    for part, size in zip(terms[0], sizes, strict=True):
        if part is None or part.magnitude is None:
            gains.append(mx.ones(size))
        else:
            summed = weight[at : at + size] + part.scale * (part.a @ part.b).T
            gains.append(part.magnitude / mx.linalg.norm(summed, axis=1))
        at += size
    gain = mx.concatenate(gains).astype(dtype)
    mx.eval(gain)
    return gain
