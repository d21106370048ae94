"""One table of dtypes: the names that safetensors files, config.json, MLX and numpy have for the same thing."""

from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import numpy as np


@dataclass(frozen=True)
class StoredDtype:
    """A dtype of safetensors files. `mlx` and `raw` are None where this package doesn't read it.

    `raw` is the numpy dtype that its bytes are read as: numpy has no bfloat16, which is held as uint16. `name` is what
    config.json, MLX and the command line call the floating-point ones.
    """

    nbytes: int
    mlx: mx.Dtype | None = None
    raw: np.dtype[Any] | None = None
    name: str | None = None


# By the name in safetensors files.
STORED_DTYPES = {
    "F32": StoredDtype(4, mx.float32, np.dtype(np.float32), "float32"),
    "F16": StoredDtype(2, mx.float16, np.dtype(np.float16), "float16"),
    "BF16": StoredDtype(2, mx.bfloat16, np.dtype(np.uint16), "bfloat16"),
    "U32": StoredDtype(4, mx.uint32, np.dtype(np.uint32)),
    "U8": StoredDtype(1, mx.uint8, np.dtype(np.uint8)),
    "I32": StoredDtype(4, mx.int32, np.dtype(np.int32)),
    "I64": StoredDtype(8, mx.int64, np.dtype(np.int64)),
    # Known to the format, but not read here; their names make the error clear.
    **{name: StoredDtype(8) for name in ("F64", "U64")},
    **{name: StoredDtype(2) for name in ("I16", "U16")},
    **{name: StoredDtype(1) for name in ("I8", "BOOL", "F8_E4M3", "F8_E5M2", "F8_E8M0")},
}
READ_DTYPES = tuple(stored for stored, dtype in STORED_DTYPES.items() if dtype.raw is not None)
FLOAT_DTYPES = tuple(stored for stored, dtype in STORED_DTYPES.items() if dtype.name is not None)
# Of what computes: the name in config.json and on the command line to MLX's dtype.
DTYPES = {dtype.name: dtype.mlx for dtype in STORED_DTYPES.values() if dtype.name and dtype.mlx is not None}
# The name in config.json to the one in safetensors files.
STORED_NAMES = {dtype.name: stored for stored, dtype in STORED_DTYPES.items() if dtype.name}
CONFIG_NAMES = {stored: name for name, stored in STORED_NAMES.items()}
# Of the floating-point ones by their name in safetensors files: MLX's dtype, and numpy's that the bytes are read as.
MLX_FLOATS = {stored: dtype.mlx for stored, dtype in STORED_DTYPES.items() if dtype.name and dtype.mlx is not None}
RAW_FLOATS = {stored: dtype.raw for stored, dtype in STORED_DTYPES.items() if dtype.name and dtype.raw is not None}
# What other programs write into config.json. Source: torch's `torch.half`, `torch.float`; safetensors' own names.
_ALIASES = {
    "half": "float16",
    "float": "float32",
    "fp16": "float16",
    "bf16": "bfloat16",
    "fp32": "float32",
    "f16": "float16",
    "f32": "float32",
}


def config_dtype(value: object) -> str | None:
    """Return the name of config.json's dtype as this package writes it, None for what is no floating-point dtype."""
    if not isinstance(value, str):
        return None
    name = value.lower().removeprefix("torch.").removeprefix("mlx.core.")
    name = _ALIASES.get(name, name)
    return name if name in DTYPES else None


def dtype_name(dtype: mx.Dtype) -> str:
    """Return MLX's own name of a dtype, without its module."""
    return str(dtype).removeprefix("mlx.core.")
