"""Values as safetensors stores them and as numpy computes with them; numpy holds bfloat16 as uint16."""

import numpy as np

from ...dtypes import RAW_FLOATS


def as_float32(raw: np.ndarray, dtype: str) -> np.ndarray:
    """Return stored values in float32, in an array of their own."""
    if dtype != "BF16":
        return raw.astype(np.float32)
    halves = np.empty((*raw.shape, 2), np.uint16)
    halves[..., 0], halves[..., 1] = 0, raw
    return halves.view(np.float32)[..., 0]


def as_stored(values: np.ndarray, dtype: str) -> np.ndarray:
    """Return float32 values rounded to a stored dtype, half away from zero for bfloat16. May overwrite `values`."""
    if dtype != "BF16":
        return values.astype(RAW_FLOATS[dtype], copy=False)
    bits = np.ascontiguousarray(values).view(np.uint32)
    bits += 0x8000
    return bits.view(np.uint16)[..., 1::2]


def round_to(values: np.ndarray, dtype: str) -> np.ndarray:
    """Return float32 values that a stored dtype holds exactly, the nearest to `values`."""
    return as_float32(as_stored(values.astype(np.float32), dtype), dtype)
