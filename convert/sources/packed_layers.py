"""Matrices as other programs quantize them, unpacked exactly into float32: AWQ, GPTQ, compressed-tensors, FP8.

Sources of the formats: AWQ, casper-hansen/AutoAWQ `awq/utils/packing_utils.py`; GPTQ, AutoGPTQ/AutoGPTQ
`auto_gptq/nn_modules/qlinear/qlinear_cuda_old.py` and ModelCloud/GPTQModel (`checkpoint_format`); compressed-tensors,
vllm-project/compressed-tensors `compressors/`; FP8, transformers `integrations/finegrained_fp8.py`, `fbgemm_fp8.py`;
E4M3, https://arxiv.org/abs/2209.05433.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

# Place of each column in a word of AWQ, whose kernels read them interleaved.
_AWQ_ORDER = (0, 4, 1, 5, 2, 6, 3, 7)
# Gives the whole of a part of a module, such as its scales, or None; `rows` are read alone where they are given.
Parts = Callable[[str], np.ndarray | None]


def unpacked(words: np.ndarray, bits: int, axis: int) -> np.ndarray:
    """Return the codes, uint8, that 32-bit words hold along an axis, the lowest bits first."""
    moved = np.moveaxis(words.view(np.uint32), axis, -1)
    shifts = np.arange(0, 32, bits, dtype=np.uint32)
    codes = (moved[..., None] >> shifts & np.uint32(2**bits - 1)).astype(np.uint8)
    return np.moveaxis(codes.reshape(*moved.shape[:-1], -1), -1, axis)


def unpacked_awq(words: np.ndarray) -> np.ndarray:
    """Return the 4-bit codes of AWQ's words along their last axis."""
    codes = unpacked(words, 4, -1)
    return codes.reshape(*codes.shape[:-1], -1, 8)[..., _AWQ_ORDER].reshape(codes.shape)


def awq_rows(words: np.ndarray, zeros: np.ndarray | None, scales: np.ndarray) -> np.ndarray:
    """Return rows (R, C) of AWQ's GEMM layout, in which inputs run down and outputs across."""
    codes = unpacked_awq(words).astype(np.float32)
    offsets = np.full(scales.shape, 8, np.float32) if zeros is None else unpacked_awq(zeros).astype(np.float32)
    group = codes.shape[0] // scales.shape[0]
    steps, offsets = np.repeat(scales, group, axis=0), np.repeat(offsets, group, axis=0)
    return np.ascontiguousarray(((codes - offsets) * steps).T)


@dataclass(frozen=True)
class GPTQFormat:
    """Bits of a code, and what is added to stored zero points: the first version of the format stores them less one."""

    bits: int
    zero_shift: int


def gptq_rows(
    words: np.ndarray, zeros: np.ndarray, scales: np.ndarray, groups: np.ndarray | None, kind: GPTQFormat
) -> np.ndarray:
    """Return rows (R, C) of GPTQ's layout; `groups` (C,) is each input's group where inputs were reordered."""
    codes = unpacked(words, kind.bits, 0).astype(np.float32)
    offsets = (unpacked(zeros, kind.bits, 1) + kind.zero_shift & 2**kind.bits - 1).astype(np.float32)
    if groups is None:
        groups = np.arange(codes.shape[0]) // (codes.shape[0] // scales.shape[0])
    return np.ascontiguousarray(((codes - offsets[groups]) * scales[groups]).T)


def int_rows(codes: np.ndarray, scales: np.ndarray, zeros: np.ndarray | None, groups: np.ndarray | None) -> np.ndarray:
    """Return rows (R, C) of signed codes; scales and zeros are (R, groups), or one for each row or for all."""
    steps = _spread(scales, codes.shape, groups)
    offsets = 0 if zeros is None else _spread(zeros.astype(np.float32), codes.shape, groups)
    return (codes.astype(np.float32) - offsets) * steps


def _spread(values: np.ndarray, shape: tuple[int, ...], groups: np.ndarray | None) -> np.ndarray:
    """Return a value for each weight."""
    values = values.reshape(-1, 1) if values.ndim < 2 else values
    if values.shape[1] == 1:
        return values
    return values[:, groups] if groups is not None else np.repeat(values, shape[1] // values.shape[1], axis=1)


def block_scales(scales: np.ndarray, block: tuple[int, int], start: int, stop: int, columns: int) -> np.ndarray:
    """Return the scale (R, C) of each weight in rows start:stop of a matrix whose blocks have one each."""
    rows = np.arange(start, stop) // block[0]
    return scales[rows][:, np.arange(columns) // block[1]]


def _e4m3_values() -> np.ndarray:
    codes = np.arange(256)
    exponent, mantissa = codes >> 3 & 15, codes & 7
    size = np.where(exponent == 0, mantissa * 2.0**-9, (8 + mantissa) * 2.0 ** (exponent - 10))
    values = np.where(codes >= 128, -size, size)
    # Without infinities: all bits of a magnitude set are the only NaN.
    values[[0x7F, 0xFF]] = np.nan
    return values.astype(np.float32)


E4M3 = _e4m3_values()
