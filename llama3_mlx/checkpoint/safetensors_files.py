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

from ..errors import CheckpointError
from .parallel_read import read_into

INDEX_NAME = "model.safetensors.index.json"
_MAX_HEADER_BYTES = 100_000_000
# Name in the file: (MLX dtype, numpy dtype of the same width that the bytes are read as).
_DTYPES: dict[str, tuple[mx.Dtype, Any]] = {
    "F32": (mx.float32, np.float32),
    "F16": (mx.float16, np.float16),
    "BF16": (mx.bfloat16, np.uint16),
    "U32": (mx.uint32, np.uint32),
    "U8": (mx.uint8, np.uint8),
    "I32": (mx.int32, np.int32),
    "I64": (mx.int64, np.int64),
}
# Known to the format, but not to this package; their names make the error clear.
_OTHER_SIZES = {"F64": 8, "I16": 2, "I8": 1, "U16": 2, "U64": 8, "BOOL": 1, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1}


@dataclass(frozen=True)
class TensorInfo:
    """Where one tensor lies in its file. `start` counts bytes from the file's beginning."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    nbytes: int


def read_header(path: Path) -> dict[str, TensorInfo]:
    """Return the tensors of a safetensors file; raises CheckpointError if the file is damaged or cut short."""
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            prefix = file.read(8)
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
    buffer = np.empty((stop - start) * row_bytes // np.dtype(raw).itemsize, raw)
    read_into(file, memoryview(buffer.data).cast("B"), info.start + start * row_bytes)
    return buffer.reshape((stop - start, *info.shape[1:]) if info.shape else ())


def raw_dtype(dtype: str) -> Any:
    """Return the numpy dtype that tensors of the file's `dtype` are read as; raises CheckpointError for others."""
    if dtype not in _DTYPES:
        raise CheckpointError(f"tensors of dtype {dtype} are not supported; accepted are {', '.join(_DTYPES)}")
    return _DTYPES[dtype][1]


def as_mlx(raw: np.ndarray, dtype: str) -> mx.array:
    """Return the MLX array of what `read_rows` read."""
    array = mx.array(raw)
    return array.view(mx.bfloat16) if dtype == "BF16" else array


def checkpoint_files(folder: Path) -> dict[str, Path]:
    """Return the file of each tensor of a checkpoint folder, by its index or from its one file."""
    index = folder / INDEX_NAME
    if index.exists():
        return _indexed_files(folder, index)
    single = folder / "model.safetensors"
    if single.exists():
        return dict.fromkeys(read_header(single), single)
    if not folder.is_dir():
        raise CheckpointError(f"{folder} is not a folder")
    others = sorted(path.name for path in folder.glob("*.safetensors"))
    if len(others) == 1:
        return dict.fromkeys(read_header(folder / others[0]), folder / others[0])
    if others:
        raise CheckpointError(f"{folder} has {len(others)} safetensors files but no {INDEX_NAME}")
    torch_files = sorted(path.name for path in folder.glob("*.bin"))
    if torch_files:
        raise CheckpointError(
            f"{folder} has PyTorch weights ({torch_files[0]}), which can run code when read; save them as safetensors "
            "(model.save_pretrained(..., safe_serialization=True)) or take a revision that has model.safetensors"
        )
    raise CheckpointError(f"{folder} has no model.safetensors and no {INDEX_NAME}")


def _indexed_files(folder: Path, index: Path) -> dict[str, Path]:
    try:
        content = json.loads(index.read_text(encoding="utf-8"), object_pairs_hook=_without_duplicates)
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{index} can't be read: {error}") from None
    weight_map = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{index} has no weight_map")
    for tensor, name in weight_map.items():
        # A plain name can't lead out of the folder. Links may: a Hub cache keeps its files as links to blobs.
        if not isinstance(name, str) or name in ("", ".", "..") or "/" in name or "\\" in name or "\0" in name:
            raise CheckpointError(f"{index}: the file of {tensor} must be a plain name in the folder, not {name!r}")
    names = sorted(set(weight_map.values()))
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise CheckpointError(f"{folder} lacks {', '.join(missing)}, named in {INDEX_NAME}")
    held = {name: read_header(folder / name) for name in names}
    absent = [f"{tensor} (in {name})" for tensor, name in weight_map.items() if tensor not in held[name]]
    if absent:
        raise CheckpointError(f"{folder}: not in the file that {INDEX_NAME} names: {', '.join(absent)}")
    _check_unique(folder, held)
    return {tensor: folder / name for tensor, name in weight_map.items()}


def _check_unique(folder: Path, held: Mapping[str, Mapping[str, TensorInfo]]) -> None:
    first: dict[str, str] = {}
    for name, tensors in held.items():
        for tensor in tensors:
            if first.setdefault(tensor, name) != name:
                raise CheckpointError(f"{folder}: {tensor} is in {first[tensor]} and again in {name}")


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)!r} stands in it twice")
    return values


def _tensor_info(path: Path, name: str, entry: Any, data_start: int) -> TensorInfo:
    try:
        dtype, shape, (begin, end) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
        whole = all(isinstance(n, int) and not isinstance(n, bool) and n >= 0 for n in (*shape, begin, end))
    except (TypeError, KeyError, ValueError):
        whole = False
    if not whole or not isinstance(dtype, str):
        raise CheckpointError(f"{path}: the header's entry of {name} is damaged: {str(entry)[:200]}")
    size = np.dtype(_DTYPES[dtype][1]).itemsize if dtype in _DTYPES else _OTHER_SIZES.get(dtype)
    if size is None:
        raise CheckpointError(f"{path}: {name} has the unknown dtype {dtype!r}")
    if end - begin != prod(shape) * size:
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
