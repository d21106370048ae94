"""Converts an EAGLE-3 draft head of either public form into a folder of ours: small, and so in one piece."""

from dataclasses import replace
from pathlib import Path
from typing import cast

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten

from ..checkpoint.model_files import LICENCES, copy_files
from ..dtypes import DTYPES, dtype_name
from ..errors import ConversionError
from ..files import save_json, whole_folder
from ..model.config import load_json_object
from ..model.quantization import Quantization, Scheme
from ..speculation.eagle_config import HeadConfig
from ..speculation.eagle_head import EagleHead
from ..speculation.eagle_loading import build_head, read_head
from .options import ConversionOptions
from .pipeline import ConversionReport

_ACCEPTED = ("bits", "group_size", "mode", "dtype")


def convert_head(folder: Path, dest: Path, options: ConversionOptions, *, source: str) -> ConversionReport:
    """Write the head in `folder` to `dest`, which appears atomically, quantized as the options say.

    Raises ConversionError for options that a head doesn't take, and what loading raises for a damaged one.
    """
    default = ConversionOptions()
    names = [name for name in vars(default) if getattr(options, name) != getattr(default, name)]
    others = [name for name in names if name not in _ACCEPTED and (name, options.to) != ("to", "mlx")]
    if others or options.target(dest) != "mlx":
        raise ConversionError(
            f"{folder} is a draft head, which is written as an MLX folder and takes {', '.join(_ACCEPTED)} alone: "
            f"leave out {', '.join(others) or 'the .gguf of the destination'}"
        )
    config, tensors = read_head(folder, HeadConfig.from_dict(load_json_object(folder / "config.json")))
    scheme, stored = options.default_scheme(), tensors["norm.weight"].dtype
    if scheme is not None and config.layer.quantization is not None:
        raise ConversionError(f"{folder} is quantized already: convert the original draft head")
    if options.dtype is not None or (scheme is not None and stored == mx.float32):
        stored = DTYPES[options.dtype or "float16"]
    head = build_head(config, tensors, folder)
    head.apply(lambda array: array.astype(stored) if array.dtype in DTYPES.values() else array)
    parameters = sum(array.size for array in _parameters(head).values())
    quantization = config.layer.quantization if scheme is None else _quantize(head, scheme)
    layer = replace(config.layer, quantization=quantization, dtype=dtype_name(stored))
    arrays = _parameters(head) | {name: tensors[name] for name in ("d2t", "t2d") if name in tensors}
    total = sum(array.nbytes for array in arrays.values())
    with whole_folder(dest) as place:
        copy_files(folder, place, LICENCES)
        save_json(place / "config.json", replace(config, layer=layer).to_dict())
        mx.save_safetensors(str(place / "model.safetensors"), arrays, {"format": "mlx"})
    return ConversionReport(
        path=dest,
        source=source,
        parameters=parameters,
        total_bytes=total,
        bits_per_weight=total * 8 / parameters,
        quantizer=None if scheme is None else "rtn",
        resumed_modules=0,
    )


def _quantize(head: EagleHead, scheme: Scheme) -> Quantization:
    """Quantize every matrix whose rows are whole groups; return what was done."""
    kept: dict[str, Scheme | None] = {}

    def choose(path: str, module: nn.Module) -> bool | dict[str, object]:
        if not hasattr(module, "to_quantized"):
            return False
        if np.prod(module.weight.shape[-1:]) % scheme.group_size:
            kept[path] = None
            return False
        return dict(scheme.to_dict())

    nn.quantize(head, class_predicate=choose)
    return Quantization(scheme, kept)


def _parameters(head: EagleHead) -> dict[str, mx.array]:
    return dict(cast(list[tuple[str, mx.array]], tree_flatten(head.parameters())))
