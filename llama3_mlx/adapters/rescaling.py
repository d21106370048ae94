"""Adapters rescaled between channels of other scales: those that a model was trained with, and of its conversions.

A conversion may have W' = diag(rows) W diag(columns) in place of a matrix W, and the same function (see
channel_scales.py). The low-rank term for it has A' = A diag(columns) and B' = diag(rows) B, and fully trained tensors
are multiplied as the model's own. DoRA multiplies each output by m / ||W + scale B A||, its row's norm, which has to
stay what it is: m' = m ||W' + scale B' A'|| / ||W + scale B A||.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import mlx.core as mx

from ..checkpoint.folder import ModelFolder
from ..finetune.layers.lora import dense_weight
from ..model.channel_scales import ChannelScales, Factors, change, load_scales
from ..model.config import ModelConfig
from ..model.transformer import LlamaForCausalLM
from .adapter import Adapter, LowRank, known_scales
from .paths import holder_path, module_at, part_sizes


@dataclass(frozen=True)
class AdapterBase:
    """The model that an adapter goes into. `matrix` gives the weight (out, in) of a layer by its path, float32."""

    config: ModelConfig
    scales: ChannelScales | None
    folder: Path | None
    matrix: Callable[[str], mx.array]


def adapter_base(model: LlamaForCausalLM) -> AdapterBase:
    """Return a loaded model as a base; raises AdapterError where the scales of its channels aren't known."""
    return AdapterBase(model.config, known_scales(model), model.folder, lambda path: _matrix(model, path))


def folder_base(opened: ModelFolder) -> AdapterBase:
    """Return a model's folder as a base, of whose weights only what is asked for is read.

    Raises CheckpointError where the scales of its channels are missing.
    """
    reader = opened.reader()

    def matrix(path: str) -> mx.array:
        name = f"{path}.weight"
        return mx.array(reader.dequantized(name, 0, opened.tensors[name].shape[0]))

    return AdapterBase(opened.config, load_scales(opened.path, opened.config), opened.path, matrix)


def _matrix(model: LlamaForCausalLM, path: str) -> mx.array:
    at = holder_path(model, path)
    layer = module_at(model, at)
    weight = dense_weight(layer.get("base", layer))
    sizes = part_sizes(at, model)
    start = sum(list(sizes.values())[: list(sizes).index(path)])
    return weight[start : start + sizes[path]].astype(mx.float32)


def rescaled_to(adapter: Adapter, scales: ChannelScales | None, base: AdapterBase) -> Adapter:
    """Return the adapter for channels of the given scales, None: those that the model was trained with."""
    needed = change(adapter.scales, scales)
    if needed is None:
        return adapter
    config, own = base.config, change(base.scales, adapter.scales)

    def weight(path: str) -> mx.array:
        """Return a layer's matrix in the adapter's channels."""
        name = f"{path}.weight"
        if name in adapter.full_tensors:
            return adapter.full_tensors[name].astype(mx.float32)
        return _scaled(base.matrix(path), own.factors(name, config)) if own else base.matrix(path)

    parts = {
        path: _part(path, part, needed.factors(f"{path}.weight", config), weight)
        for path, part in adapter.parts.items()
    }
    full = {name: _full(array, needed.factors(name, config)) for name, array in adapter.full_tensors.items()}
    return replace(adapter, parts=parts, full_tensors=full, scales=scales)


def _part(path: str, part: LowRank, factors: Factors, weight: Callable[[str], mx.array]) -> LowRank:
    a, b = (half.astype(mx.float32) for half in (part.a, part.b))
    magnitude = part.magnitude
    if magnitude is not None and not factors.are_one:
        summed = weight(path) + part.scale * (a @ b).T
        norms = [mx.linalg.norm(matrix, axis=1) for matrix in (_scaled(summed, factors), summed)]
        magnitude = magnitude.astype(mx.float32) * norms[0] / norms[1]
        # One layer's matrix in memory at a time.
        mx.eval(magnitude)
    return replace(
        part,
        a=a if factors.columns is None else a * mx.array(factors.columns)[:, None],
        b=b if factors.rows is None else b * mx.array(factors.rows),
        magnitude=magnitude,
    )


def _full(array: mx.array, factors: Factors) -> mx.array:
    """Return a fully trained tensor scaled; matrices keep their dtype, for they are large, vectors come in float32."""
    scaled = _scaled(array, factors)
    return scaled.astype(array.dtype) if array.ndim > 1 else scaled


def _scaled(array: mx.array, factors: Factors) -> mx.array:
    """Return a tensor times its factors, float32."""
    scaled = array.astype(mx.float32)
    if factors.columns is not None:
        scaled = scaled * mx.array(factors.columns)
    if factors.rows is not None:
        rows = mx.array(factors.rows)
        scaled = scaled * (rows if scaled.ndim == 1 else rows[:, None])
    return scaled
