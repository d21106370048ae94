"""Adapters at run time: one or several over the same base, joined or separate projections, switched and mixed.

All adapters of a layer lie side by side in one low-rank term, y = W x + (((x A) * weights) B), where the weights say
how much of each adapter counts; that is two small products whatever their number. Where q, k and v are joined into one
matrix, so are their A, and B is block-diagonal.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_unflatten

from ..errors import RequestError
from ..finetune.layers.attach import make_dense
from ..finetune.layers.lora import dense_weight, without_bias
from ..model.transformer import LlamaForCausalLM
from .adapter import EMBEDDING, Adapter, LowRank
from .mlx_lm_format import read_adapter
from .paths import holder_path, part_sizes
from .rescaling import adapter_base, rescaled_to


def load_adapter(model: LlamaForCausalLM, path: str | Path) -> None:
    """Apply the adapter in a folder, of mlx-lm's layout or PEFT's, to a loaded model. Raises AdapterError."""
    AdapterSet(model).load("adapter", path, active=True)


class Weights:
    """How much each adapter counts, shared by all layers: one number for all rows, or one for each row of a batch."""

    def __init__(self) -> None:
        self.values: mx.array | None = None
        self.any = False
        # All adapters with weight one: nothing needs to be weighed.
        self.plain = False

    def of(self, owners: mx.array, dtype: mx.Dtype) -> mx.array:
        """Return the weights of low-rank columns that belong to the adapters numbered `owners`, (rows or 1, 1, r)."""
        assert self.values is not None, "weights are set where adapters are"
        return self.values[:, None, owners].astype(dtype)


class AdapterSet:
    """Adapters over one model. Exactly one set can be on a model; `clear` takes it off."""

    def __init__(self, model: LlamaForCausalLM) -> None:
        if any(isinstance(module, MixedLinear | MixedEmbedding) for _, module in model.named_modules()):
            raise RequestError("the model has adapters already: use their AdapterSet, or clear it first")
        self.model = model
        self.weights = Weights()
        self._adapters: dict[str, Adapter] = {}
        self._mix: dict[str, float] = {}
        self._bases: dict[str, nn.Module] = {}

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the loaded adapters, in the order of loading."""
        return tuple(self._adapters)

    def load(self, name: str, path: str | Path, *, active: bool = False) -> None:
        """Load an adapter folder under a name; `active` applies it alone from now on."""
        self.add(name, read_adapter(Path(path).expanduser(), adapter_base(self.model)))
        if active:
            self.select(name)

    def add(self, name: str, adapter: Adapter) -> None:
        """Add an adapter that is in memory, rescaled_to to the model's channels if it is for others."""
        if name in self._adapters:
            raise RequestError(f"there is an adapter {name!r} already: unload it first")
        adapter.check(self.model.config, name)
        alone = next((other for other, known in self._adapters.items() if not _mixable(known)), None)
        if self._adapters and (alone or not _mixable(adapter)):
            raise RequestError(
                f"{alone or name} is a DoRA adapter or has fully trained modules, and goes with no other: clear the set"
            )
        base = adapter_base(self.model)
        self._adapters[name] = rescaled_to(adapter, base.scales, base)
        self._rebuild()

    def unload(self, name: str) -> None:
        """Forget an adapter; its memory is free at once."""
        self._known(name)
        del self._adapters[name]
        self._mix.pop(name, None)
        self._rebuild()

    def select(self, choice: str | Mapping[str, float] | None) -> None:
        """Apply one adapter, a mixture {name: weight}, or none, to all rows."""
        self._mix = self._as_mix(choice)
        self._set_weights([self._mix])

    def select_rows(self, choices: Sequence[str | Mapping[str, float] | None]) -> None:
        """Apply to each row of the next batches its own adapter, mixture or none."""
        self._set_weights([self._as_mix(choice) for choice in choices])

    def clear(self) -> None:
        """Take all adapters off: the model is as it was."""
        self.model.update_modules(tree_unflatten(list(self._bases.items())))
        self._bases.clear()
        self._adapters.clear()
        self._mix.clear()

    def _as_mix(self, choice: str | Mapping[str, float] | None) -> dict[str, float]:
        mix = {choice: 1.0} if isinstance(choice, str) else dict(choice or {})
        for name in mix:
            self._known(name)
        if any(not _mixable(self._adapters[name]) and weight != 1 for name, weight in mix.items()):
            raise RequestError(
                "a DoRA adapter or one with fully trained modules can't be weighted: select it by its name"
            )
        return mix

    def _known(self, name: str) -> None:
        if name not in self._adapters:
            raise RequestError(f"there is no adapter {name!r}; loaded are {', '.join(self._adapters) or 'none'}")

    def _set_weights(self, mixes: Sequence[Mapping[str, float]]) -> None:
        rows = [[mix.get(name, 0.0) for name in self._adapters] for mix in mixes]
        self.weights.any = any(map(any, rows))
        self.weights.plain = all(weight == 1.0 for row in rows for weight in row)
        self.weights.values = mx.array(rows, mx.float32) if self._adapters else None
        unmixable = [name for name, adapter in self._adapters.items() if not _mixable(adapter)]
        if unmixable and len(mixes) > 1 and len({tuple(sorted(mix.items())) for mix in mixes}) > 1:
            raise RequestError(
                f"{unmixable[0]} is a DoRA adapter or has fully trained modules: it is for all rows or none"
            )

    def _rebuild(self) -> None:
        """Wrap the layers that an adapter touches, unwrap the others."""
        paths = {holder_path(self.model, path) for adapter in self._adapters.values() for path in adapter.parts}
        paths |= {
            holder_path(self.model, name.rpartition(".")[0]) for a in self._adapters.values() for name in a.full_tensors
        }
        for path in [path for path in self._bases if path not in paths]:
            self.model.update_modules(tree_unflatten([(path, self._bases.pop(path))]))
        modules = dict(self.model.named_modules())
        for path in sorted(paths):
            base = self._bases.setdefault(path, modules[path])
            made = self._wrapped(path, base)
            self.model.update_modules(tree_unflatten([(path, made)]))
            mx.eval(made.parameters())
        self._set_weights([self._mix])

    def _wrapped(self, path: str, base: nn.Module) -> nn.Module:
        adapters = list(self._adapters.values())
        full_tensors = {name: array for adapter in adapters for name, array in adapter.full_tensors.items()}
        replaced = with_full_tensors(path, base, self.model, full_tensors)
        if path == EMBEDDING:
            parts = [adapter.parts.get(path) for adapter in adapters]
            return MixedEmbedding(base, replaced, parts, self.weights)
        if not isinstance(base, nn.Linear | nn.QuantizedLinear):
            return Switched(base, replaced, self.weights)
        sizes = part_sizes(path, self.model)
        terms = [[adapter.parts.get(part) for part in sizes] for adapter in adapters]
        return MixedLinear(base, replaced, terms, list(sizes.values()), self.weights)


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
    ) -> None:
        """`terms` holds for each adapter its parts of the outputs, whose `sizes` make up the layer's outputs."""
        super().__init__(base, replaced, weights)
        dtype = base.scales.dtype if "scales" in base else base.weight.dtype
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
        low_rank = (inner if weights.plain else inner * weights.of(self._owners, x.dtype)) @ self.up
        if self._gain is None:
            return layer(x) + low_rank
        y = self._gain * (without_bias(layer, x) + low_rank)
        return y + layer.bias if "bias" in layer else y


class MixedEmbedding(Switched):
    """An embedding, and the head tied to it, with the low-rank terms of several adapters."""

    def __init__(self, base: nn.Module, replaced: nn.Module, parts: Sequence[LowRank | None], weights: Weights) -> None:
        super().__init__(base, replaced, weights)
        present = [(number, part) for number, part in enumerate(parts) if part is not None]
        if present:
            dtype = base.scales.dtype if "scales" in base else base.weight.dtype
            self.down = mx.concatenate([part.a for _, part in present], axis=1).astype(dtype)
            self.up = mx.concatenate([part.b * part.scale for _, part in present], axis=0).astype(dtype)
            self._owners = mx.array([number for number, part in present for _ in range(part.rank)])

    def __call__(self, tokens: mx.array) -> mx.array:
        y = self.chosen()(tokens)
        if not self._weights.any or "down" not in self:
            return y
        return y + (self.down[tokens] * self._weights.of(self._owners, y.dtype)) @ self.up

    def as_linear(self, x: mx.array) -> mx.array:
        """Return the logits (..., V) of hidden states (B, D) or (B, L, D)."""
        y = self.chosen().as_linear(x)
        if not self._weights.any or "down" not in self:
            return y
        amounts = self._weights.of(self._owners, x.dtype)
        return y + ((x @ self.up.T) * (amounts if x.ndim == 3 else amounts[:, 0])) @ self.down.T


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


def _mixable(adapter: Adapter) -> bool:
    return not adapter.is_dora and not adapter.full_tensors


__all__ = ["AdapterSet", "MixedEmbedding", "MixedLinear", "load_adapter"]
