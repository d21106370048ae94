"""An adapter apart from any model: low-rank parts by module path, full tensors by name, and its origin."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

import mlx.core as mx

from ..errors import AdapterError
from ..finetune.layers.attach import adapted_layers, full_paths
from ..finetune.layers.lora import LoRAEmbedding
from ..finetune.layers.targets import layer_number
from ..model.channel_scales import SCALES_NAME, ChannelScales
from ..model.config import ModelConfig
from ..model.parameters import expected_tensors
from ..model.transformer import LlamaForCausalLM

EMBEDDING = "model.embed_tokens"
_SHOWN = 5


@dataclass(frozen=True)
class LowRank:
    """scale * b^T a^T beside a matrix: `a` (in, r), `b` (r, out), and DoRA's magnitude (out,).

    For an embedding `a` is (V, r) and `b` (r, D).
    """

    a: mx.array
    b: mx.array
    scale: float
    magnitude: mx.array | None = None

    @property
    def rank(self) -> int:
        """Rows of `b`."""
        return self.b.shape[0]

    def rescaled(self, scale: float) -> "LowRank":
        """Return the same term with another scale, the difference folded into `b`."""
        return self if scale == self.scale else replace(self, b=self.b * (self.scale / scale), scale=scale)

    def padded(self, rank: int) -> "LowRank":
        """Return the same term with zeros up to `rank`."""
        missing = rank - self.rank
        if missing == 0:
            return self
        return replace(self, a=mx.pad(self.a, [(0, 0), (0, missing)]), b=mx.pad(self.b, [(0, missing), (0, 0)]))

    def trimmed(self, rank: int) -> "LowRank":
        """Return the same term without the zeros beyond `rank` that `padded` added; itself if there is more to it."""
        a, b = self.a[:, rank:], self.b[rank:]
        if rank >= self.rank or (mx.any(a != 0) | mx.any(b != 0)).item():
            return self
        return replace(self, a=self.a[:, :rank], b=self.b[:rank])


@dataclass(frozen=True)
class Adapter:
    """What fine-tuning made: `parts` by layer path, `full_tensors` by parameter name.

    `dropout` is what it was trained with; `base` names the model it was made for, if that is known. `scales` are those
    of the channels that it works on, None for those that the model was trained with.
    """

    parts: Mapping[str, LowRank]
    full_tensors: Mapping[str, mx.array] = field(default_factory=dict)
    dropout: float = 0.0
    base: str | None = None
    scales: ChannelScales | None = None

    @property
    def is_dora(self) -> bool:
        """Whether the layers have magnitudes; a mixture doesn't occur."""
        return any(part.magnitude is not None for part in self.parts.values())

    @property
    def is_mixable(self) -> bool:
        """Whether it goes with others in one batch, and with a weight: low-rank terms alone can be summed."""
        return not self.is_dora and not self.full_tensors

    @property
    def parameters(self) -> int:
        """Number of values."""
        return sum(array.size for array in self.arrays())

    def arrays(self) -> Iterator[mx.array]:
        """Yield every array."""
        for part in self.parts.values():
            yield from (part.a, part.b)
            if part.magnitude is not None:
                yield part.magnitude
        yield from self.full_tensors.values()

    def check(self, config: ModelConfig, where: object = "the adapter") -> None:
        """Raise AdapterError, with what doesn't fit, unless the adapter belongs to a model of this shape."""
        shapes = expected_tensors(config)
        problems = [text for path, part in self.parts.items() if (text := _misfit(path, part, shapes))]
        problems += [
            f"{name} is {list(array.shape)} and the model's {list(shapes[name]) if name in shapes else 'has none'}"
            for name, array in self.full_tensors.items()
            if shapes.get(name) != tuple(array.shape)
        ]
        if problems:
            more = f"; and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
            base = f" (it was made for {self.base})" if self.base else ""
            raise AdapterError(f"{where} is of another model{base}: {'; '.join(problems[:_SHOWN])}{more}")


def _misfit(path: str, part: LowRank, shapes: Mapping[str, tuple[int, ...]]) -> str | None:
    shape = shapes.get(f"{path}.weight")
    if shape is None or len(shape) != 2:
        number = layer_number(path)
        return f"it adapts {path}, which " + ("this model doesn't have" if number is None else "is beyond its layers")
    found = (part.a.shape[0], part.b.shape[1])
    expected = shape if path == EMBEDDING else shape[::-1]
    if found != expected:
        return (
            f"{path} is adapted from {found[0]} to {found[1]} values, and the model's is {expected[0]} to {expected[1]}"
        )
    if part.a.shape[1] != part.rank:
        return f"{path} has a of rank {part.a.shape[1]} and b of rank {part.rank}"
    if part.magnitude is not None and part.magnitude.shape != (shape[0],):
        return f"{path} has {part.magnitude.size} magnitudes for {shape[0]} outputs"
    return None


def from_model(model: LlamaForCausalLM, *, dropout: float = 0.0, base: str | None = None) -> Adapter:
    """Return the adapter that a model in training holds."""
    parts = {
        path: LowRank(layer.lora_a, layer.lora_b, layer.scale, layer.get("m")) for path, layer in adapted_layers(model)
    }
    modules = dict(model.named_modules())
    full = {
        f"{path}.{name}": modules[path][name]
        for path in full_paths(model)
        if path not in parts
        for name in ("weight", "bias")
        if name in modules[path]
    }
    return Adapter(parts, full, dropout, base, known_scales(model))


def known_scales(model: LlamaForCausalLM) -> ChannelScales | None:
    """Return the scales of a loaded model's channels; raises AdapterError where its folder has lost them."""
    scales = model.channel_scales
    if (scales.digest if scales else None) != model.config.channel_scales:
        raise AdapterError(
            f"the model's channels were equalized, and {SCALES_NAME}, which says how, is missing or damaged in "
            f"{model.folder}: without it no adapter fits; copy it from where the model comes from"
        )
    return scales


def put_into(model: LlamaForCausalLM, adapter: Adapter) -> None:
    """Copy an adapter's values into a model in training whose layers are the same; raises AdapterError otherwise."""
    layers = dict(adapted_layers(model))
    if layers.keys() != adapter.parts.keys():
        other = sorted(layers.keys() ^ adapter.parts.keys())
        raise AdapterError(f"the adapter to start from trains other layers, such as {other[0]}: use the same settings")
    for path, part in adapter.parts.items():
        layer, rank = layers[path], layers[path].lora_a.shape[1]
        same = part.trimmed(rank).rescaled(layer.scale)
        if same.rank != rank:
            raise AdapterError(f"{path} has rank {part.rank} in the adapter to start from and {rank} in the settings")
        layer.lora_a, layer.lora_b = same.a.astype(mx.float32), same.b.astype(mx.float32)
        if same.magnitude is not None:
            layer.m = same.magnitude.astype(mx.float32)
    modules = dict(model.named_modules())
    for name, array in adapter.full_tensors.items():
        path, _, key = name.rpartition(".")
        modules[path][key] = array.astype(mx.float32)


__all__ = ["EMBEDDING", "Adapter", "LoRAEmbedding", "LowRank", "from_model", "known_scales", "put_into"]
