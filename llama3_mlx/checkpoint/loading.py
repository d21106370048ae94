"""Loads a checkpoint folder into a model: names and shapes checked against the config before anything is read."""

from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from ..device import compute_dtype, emulates_bfloat16
from ..errors import CheckpointError, ConfigError
from ..model.channel_scales import load_scales
from ..model.config import ModelConfig, load_config
from ..model.fused_projections import join_projections
from ..model.parameters import check_tensors, stored_tensors
from ..model.quantization import Scheme
from ..model.transformer import LlamaForCausalLM
from .safetensors_files import TensorInfo, checkpoint_files, read_header

_FLOATS = (mx.float16, mx.bfloat16, mx.float32)
_FLOAT16_MAX = 65504.0


def load_model(folder: Path, *, dtype: str | None = None, join: bool = True) -> LlamaForCausalLM:
    """Load the model in `folder`, evaluated, to compute in `dtype` (default: what suits the device).

    `join` lays q/k/v and gate/up together for speed; training and export want them apart.
    Raises ConfigError or CheckpointError with everything that is wrong.
    """
    config = load_config(folder)
    files = checkpoint_files(folder)
    headers = {path: read_header(path) for path in dict.fromkeys(files.values())}
    tensors = {name: headers[path][name] for name, path in files.items()}
    schemes = quantized_modules(config, tensors)
    ignored = check_tensors(stored_tensors(config, schemes), {n: t.shape for n, t in tensors.items()}, folder)
    weights = _read(folder, headers, ignored)
    model = make_model(config, schemes)
    chosen = compute_dtype(dtype, _stored_dtype(weights), _fits_float16(weights) if dtype is None else True)
    cast = [(name, w.astype(chosen) if w.dtype in _FLOATS else w) for name, w in weights.items()]
    del weights
    model.load_weights(cast, strict=True)
    del cast
    if join:
        join_projections(model)
    for layer in model.model.layers:
        mx.eval(layer.parameters())
    mx.eval(model.parameters())
    model.eval()
    model.folder = folder
    # Only adapters need them, and whoever fits one asks whether they were found.
    with suppress(CheckpointError, ConfigError):
        model.channel_scales = load_scales(folder, config)
    return model


def make_model(config: ModelConfig, schemes: Mapping[str, Scheme]) -> LlamaForCausalLM:
    """Return a model whose modules at the paths of `schemes` are quantized; its weights are placeholders."""
    model = LlamaForCausalLM(config)
    if schemes:
        nn.quantize(model, class_predicate=lambda path, _: schemes[path].to_dict() if path in schemes else False)
    return model


def quantized_modules(config: ModelConfig, tensors: Iterable[str]) -> dict[str, Scheme]:
    """Return the scheme of each module that has scales; those are the quantized ones, as in mlx-lm."""
    paths = [name.removesuffix(".scales") for name in tensors if name.endswith(".scales")]
    if paths and config.quantization is None:
        raise CheckpointError("the weights are quantized, but config.json has no quantization entry")
    found = {path: config.quantization.scheme_for(path) for path in paths if config.quantization}
    return {path: scheme for path, scheme in found.items() if scheme}


def _read(folder: Path, headers: Mapping[Path, Mapping[str, TensorInfo]], ignored: set[str]) -> dict[str, mx.array]:
    """Return the tensors, not evaluated."""
    weights: dict[str, mx.array] = {}
    for path in headers:
        try:
            loaded: Any = mx.load(str(path), format="safetensors")
        except RuntimeError as error:
            raise CheckpointError(f"{path} can't be read: {error}") from None
        weights |= {name: w for name, w in loaded.items() if name not in ignored}
    if not weights:
        raise CheckpointError(f"{folder} holds no tensors")
    return weights


def _stored_dtype(weights: Mapping[str, mx.array]) -> mx.Dtype:
    """Return the dtype of the matrices' floating-point parts (norms may be kept wider)."""
    floats = [w for w in weights.values() if w.dtype in _FLOATS]
    if not floats:
        raise CheckpointError("the weights hold no floating-point tensor")
    return max(floats, key=lambda w: w.size).dtype


def _fits_float16(weights: Mapping[str, mx.array]) -> bool:
    """Return, lazily where it can, whether every bfloat16 value is in float16's range."""
    if not emulates_bfloat16():
        return True
    wide = [w for w in weights.values() if w.dtype == mx.bfloat16]
    return all(bool((mx.abs(w).max() < _FLOAT16_MAX).item()) for w in wide)
