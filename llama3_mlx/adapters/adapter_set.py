"""Adapters at run time: one or several over the same base, joined or separate projections, switched and mixed.

All adapters of a layer lie side by side in one low-rank term, y = W x + (((x A) * weights) B), where the weights say
how much of each adapter counts; that is two small products whatever their number. Where q, k and v are joined into one
matrix, so are their A, and B is block-diagonal.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_unflatten

from ..errors import RequestError
from ..model.transformer import LlamaForCausalLM
from .adapter import EMBEDDING, Adapter
from .mixed_layers import MixedEmbedding, MixedLinear, Switched, Weights, with_full_tensors
from .mlx_lm_format import read_adapter
from .paths import holder_path, part_sizes
from .rescaling import AdapterBase, adapter_base, rescaled_to


def load_adapter(model: LlamaForCausalLM, path: str | Path) -> None:
    """Apply the adapter in a folder, of mlx-lm's layout or PEFT's, to a loaded model. Raises AdapterError."""
    AdapterSet(model).load("adapter", path, active=True)


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
        self.add(name, read_adapter(Path(path).expanduser(), self._base()))
        if active:
            self.select(name)

    def add(self, name: str, adapter: Adapter) -> None:
        """Add an adapter that is in memory, rescaled to the model's channels if it is for others."""
        if name in self._adapters:
            raise RequestError(f"there is an adapter {name!r} already: unload it first")
        base = self._base()
        adapter.check(base.config, name)
        alone = next((other for other, known in self._adapters.items() if not known.is_mixable), None)
        if self._adapters and (alone or not adapter.is_mixable):
            raise RequestError(
                f"{alone or name} is a DoRA adapter or has fully trained modules, and goes with no other: clear the set"
            )
        self._adapters[name] = self._held(rescaled_to(adapter, base.scales, base))
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

    def _base(self) -> AdapterBase:
        """Return the model that adapters have to fit."""
        return adapter_base(self.model)

    def _held(self, adapter: Adapter) -> Adapter:
        """Return what the model here takes of an adapter."""
        return adapter

    def _as_mix(self, choice: str | Mapping[str, float] | None) -> dict[str, float]:
        mix = {choice: 1.0} if isinstance(choice, str) else dict(choice or {})
        for name in mix:
            self._known(name)
        if any(not self._adapters[name].is_mixable and weight != 1 for name, weight in mix.items()):
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
        unmixable = [name for name, adapter in self._adapters.items() if not adapter.is_mixable]
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
            return MixedEmbedding(base, replaced, parts, self.weights, self.model.dtype)
        if not isinstance(base, nn.Linear | nn.QuantizedLinear):
            return Switched(base, replaced, self.weights)
        sizes = part_sizes(path, self.model)
        terms = [[adapter.parts.get(part) for part in sizes] for adapter in adapters]
        return MixedLinear(base, replaced, terms, list(sizes.values()), self.weights, self.model.dtype)
