"""Writes a fused model as a folder that mlx-lm and this package load."""

import json
from collections.abc import Iterator
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn

from ...adapters.adapter import Adapter
from ...checkpoint.model_files import copy_files
from ...convert.targets.shard_files import write_tensors
from ...dtypes import DTYPES
from ...errors import RequestError
from ...model.channel_scales import SCALES_NAME
from ...model.config import load_json_object
from ...model.quantization import Quantization, Scheme
from ...model.transformer import LlamaForCausalLM
from .fused_layers import Form, fused_tensors
from .precision import is_matrix


def stored_dtype(source: Path) -> mx.Dtype:
    """Return the dtype that a model folder keeps its floating-point values in."""
    values = load_json_object(source / "config.json")
    name = values.get("torch_dtype") or values.get("dtype")
    return DTYPES.get(name if isinstance(name, str) else "", mx.float16)


def write_model(
    folder: Path,
    source: Path,
    model: LlamaForCausalLM,
    adapter: Adapter,
    layers: dict[str, nn.Module],
    forms: dict[str, Form],
) -> int:
    """Write weights, config and what goes along with them; return the bytes of the weights."""
    values = load_json_object(source / "config.json")
    old = model.config.quantization
    exceptions = {
        path: form if isinstance(form, Scheme) else None for path, form in forms.items() if is_matrix(layers[path])
    }
    if old:
        entry = Quantization(old.default, {**old.modules, **exceptions}).to_dict()
        values["quantization"] = values["quantization_config"] = entry
    elif any(exceptions.values()):
        raise RequestError("the base isn't quantized: fuse it as it is and convert the result")
    dtype = stored_dtype(source)
    total = write_tensors(folder, list(_tensors(model, adapter, layers, forms, dtype)))
    copy_files(source, folder)
    if model.channel_scales is not None:
        (folder / SCALES_NAME).write_bytes(model.channel_scales.content)
    (folder / "config.json").write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    return total


def _tensors(
    model: LlamaForCausalLM,
    adapter: Adapter,
    layers: dict[str, nn.Module],
    forms: dict[str, Form],
    dtype: mx.Dtype,
) -> Iterator[tuple[str, mx.array]]:
    """Yield name and tensor of the whole model, floating-point ones in the dtype that the base is stored in."""
    for path, module in model.named_modules():
        if path in layers and is_matrix(layers[path]):
            yield from fused_tensors(path, layers[path], adapter, forms[path]).items()
            continue
        for name, array in module.items():
            if not isinstance(array, mx.array) or name.startswith("_"):
                continue
            full = adapter.full_tensors.get(f"{path}.{name}")
            array = array if full is None else full
            yield f"{path}.{name}", array.astype(dtype) if mx.issubdtype(array.dtype, mx.floating) else array
