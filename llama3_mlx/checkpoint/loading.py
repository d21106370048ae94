"""Loads a checkpoint folder into a model: names and shapes are checked against the config before anything is read."""

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import cast

import mlx.core as mx
import mlx.nn as nn

from ..device import compute_dtype, emulates_bfloat16
from ..dtypes import DTYPES
from ..errors import CheckpointError, ConfigError
from ..files import allow_open_files, printable
from ..model.channel_scales import load_scales
from ..model.column_order import lay_by_columns
from ..model.config import ModelConfig
from ..model.fused_projections import join_projections
from ..model.memory_estimate import kept_unpacked_bytes
from ..model.quantization import Scheme
from ..model.transformer import LlamaForCausalLM
from ..model.unpacked import unpack_products
from .folder import ModelFolder
from .reader import StoredTensor

_FLOATS = tuple(DTYPES.values())
_FLOAT16_MAX = 65504.0


def load_model(folder: Path | ModelFolder, *, dtype: str | None = None, join: bool = True) -> LlamaForCausalLM:
    """Load the model in `folder`, evaluated, to compute in `dtype` (default: what suits the device).

    `join` lays q/k/v and gate/up together for speed; training and export want them apart.
    Raises ConfigError or CheckpointError with everything that is wrong.
    """
    opened = ModelFolder.of(folder)
    config = opened.config
    weights = lazy_weights(opened.tensors)
    model = make_model(config, opened.schemes)
    stored = DTYPES[config.dtype or "float16"]
    chosen = compute_dtype(dtype, stored, _fits_float16(weights) if dtype is None else True)
    cast_weights = [(name, w.astype(chosen) if w.dtype in _FLOATS else w) for name, w in weights.items()]
    del weights
    model.load_weights(cast_weights, strict=True)
    del cast_weights
    if join:
        arrange(model, keep_unpacked=kept_unpacked_bytes(config) > 0)
    finish(model, opened.path)
    # Only adapters need them, and whoever fits one asks whether they were found.
    with suppress(CheckpointError, ConfigError):
        model.channel_scales = load_scales(opened.path, config)
    return model


def arrange(model: LlamaForCausalLM, *, keep_unpacked: bool = False) -> None:
    """Lay the loaded matrices as inference multiplies by them fastest on this device; they aren't evaluated."""
    join_projections(model)
    unpack_products(model, keep=keep_unpacked)
    lay_by_columns(model)


def finish(model: LlamaForCausalLM, path: Path) -> None:
    """Evaluate a model that was loaded from `path`, a layer at a time: no more than one is in memory twice."""
    for layer in model.model.layers:
        mx.eval(layer.parameters())
    mx.eval(model.parameters())
    model.eval()
    model.folder = path


def make_model(config: ModelConfig, schemes: Mapping[str, Scheme]) -> LlamaForCausalLM:
    """Return a model whose modules at the paths of `schemes` are quantized; its weights are placeholders."""
    model = LlamaForCausalLM(config)
    if schemes:
        nn.quantize(model, class_predicate=lambda path, _: schemes[path].to_dict() if path in schemes else False)
    return model


def lazy_weights(tensors: Mapping[str, StoredTensor]) -> dict[str, mx.array]:
    """Return the tensors, not evaluated."""
    files: dict[Path, dict[str, mx.array]] = {}
    paths = dict.fromkeys(tensor.path for tensor in tensors.values())
    # MLX keeps a file open until its last tensor is evaluated.
    allow_open_files(len(paths))
    for path in paths:
        try:
            # MLX opens no path that isn't UTF-8; that of an open file always is.
            with path.open("rb") as file:
                name = str(path) if printable(path) == str(path) else f"/dev/fd/{file.fileno()}"
                files[path] = cast(dict[str, mx.array], mx.load(name, format="safetensors"))
        except RuntimeError as error:
            raise CheckpointError(f"{path} can't be read: {error}") from None
    return {name: files[tensor.path][tensor.stored_name] for name, tensor in tensors.items()}


def _fits_float16(weights: Mapping[str, mx.array]) -> bool:
    """Return, lazily where it can, whether every bfloat16 value is in float16's range."""
    if not emulates_bfloat16():
        return True
    wide = [w for w in weights.values() if w.dtype == mx.bfloat16]
    return all(bool((mx.abs(w).max() < _FLOAT16_MAX).item()) for w in wide)
