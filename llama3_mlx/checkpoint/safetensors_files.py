"""Safetensors files: headers checked before anything is allocated, rows read one block at a time.

Reads with pread, not mmap: mapped pages would count as the process's memory.
Source of the format: https://github.com/huggingface/safetensors#format.
"""

import json
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from ..dtypes import READ_DTYPES, STORED_DTYPES
from ..errors import CheckpointError
from ..json_types import JsonObject, JsonValue
from .parallel_read import read_into

_MAX_HEADER_BYTES = 100_000_000
# How a Git LFS pointer begins. Source: https://github.com/git-lfs/git-lfs/blob/main/docs/spec.md.
_LFS_POINTER = b"version "


@dataclass(frozen=True)
class TensorInfo:
    """Where one tensor lies in its file. `start` counts bytes from the file's beginning."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    nbytes: int


def git_lfs_pointer(path: Path) -> str | None:
    """Return what to do about a file that should hold a tokenizer and is a Git LFS pointer, None if it is none."""
    if not path.is_file():
        return None
    with path.open("rb") as file:
        return _pointer_text(path, "the tokenizer itself") if file.read(8) == _LFS_POINTER else None


def _pointer_text(path: Path, what: str) -> str:
    return f"{path} is a Git LFS pointer, not {what}: run 'git lfs pull' in {path.parent}"


def read_header(path: Path) -> dict[str, TensorInfo]:
    """Return the tensors of a safetensors file; raises CheckpointError if the file is damaged or cut short."""
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            prefix = file.read(8)
            if prefix == _LFS_POINTER:
                raise CheckpointError(_pointer_text(path, "the weights themselves"))
            length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else -1
            if not 2 <= length <= min(size - 8, _MAX_HEADER_BYTES):
                raise CheckpointError(
                    f"{path} is not a whole safetensors file: it has {size} bytes and claims a header of {length}"
                )
            text = file.read(length)
    except OSError as error:
        raise CheckpointError(f"{path} can't be read: {error.strerror}") from None
    try:
        entries = json.loads(text, object_pairs_hook=_without_duplicates)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} has a damaged header: {error}") from None
    if not isinstance(entries, dict):
        raise CheckpointError(f"{path} has a damaged header: it is not an object")
    entries.pop("__metadata__", None)
    tensors = {name: _tensor_info(path, name, entry, 8 + length) for name, entry in entries.items()}
    _check_layout(path, tensors, 8 + length, size)
    return tensors


def read_rows(file: int, info: TensorInfo, start: int = 0, stop: int | None = None) -> np.ndarray:
    """Read rows start:stop of a tensor from an open file descriptor, bfloat16 as uint16 (see `as_mlx`)."""
    raw = raw_dtype(info.dtype)
    rows = info.shape[0] if info.shape else 1
    stop = rows if stop is None else min(stop, rows)
    row_bytes = info.nbytes // rows if rows else 0
    buffer = np.empty((stop - start) * row_bytes // raw.itemsize, raw)
    read_into(file, memoryview(buffer.data).cast("B"), info.start + start * row_bytes)
    return buffer.reshape((stop - start, *info.shape[1:]) if info.shape else ())


def raw_dtype(dtype: str) -> np.dtype[Any]:
    """Return the numpy dtype that tensors of the file's `dtype` are read as; raises CheckpointError for others."""
    raw = STORED_DTYPES[dtype].raw if dtype in STORED_DTYPES else None
    if raw is None:
        raise CheckpointError(f"tensors of dtype {dtype} are not supported; accepted are {', '.join(READ_DTYPES)}")
    return raw


def as_mlx(raw: np.ndarray, dtype: str) -> mx.array:
    """Return the MLX array of what `read_rows` read."""
    array = mx.array(raw)
    return array.view(mx.bfloat16) if dtype == "BF16" else array


def _without_duplicates(pairs: list[tuple[str, Any]]) -> JsonObject:
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)!r} stands in it twice")
    return values


def _tensor_info(path: Path, name: str, entry: JsonValue, data_start: int) -> TensorInfo:
    try:
        dtype, shape, (begin, end) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
        whole = all(isinstance(n, int) and not isinstance(n, bool) and n >= 0 for n in (*shape, begin, end))
    except (TypeError, KeyError, ValueError):
        whole = False
    if not whole or not isinstance(dtype, str):
        raise CheckpointError(f"{path}: the header's entry of {name} is damaged: {str(entry)[:200]}")
    if dtype not in STORED_DTYPES:
        raise CheckpointError(f"{path}: {name} has the unknown dtype {dtype!r}")
    if end - begin != prod(shape) * STORED_DTYPES[dtype].nbytes:
        raise CheckpointError(f"{path}: {name} of shape {list(shape)} and dtype {dtype} can't have {end - begin} bytes")
    return TensorInfo(dtype, shape, data_start + begin, end - begin)


def _check_layout(path: Path, tensors: Mapping[str, TensorInfo], data_start: int, size: int) -> None:
    """Check that tensors lie one after another within the file."""
    at = data_start
    for name, info in sorted(tensors.items(), key=lambda item: (item[1].start, item[1].nbytes)):
        if info.start < at:
            raise CheckpointError(f"{path}: {name} overlaps the tensor before it")
        at = info.start + info.nbytes
    if at > size:
        raise CheckpointError(f"{path} is cut short: its header describes {at} bytes, it has {size}")
