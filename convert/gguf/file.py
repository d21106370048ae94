"""Reads GGUF files: metadata, where tensors lie, rows of one without the rest. No part of a file is kept mapped.

Own parser, as the gguf package's maps the file, makes an array of every string (hundreds of MB with Llama 3's merges)
and trusts the counts that it reads. Source of the format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md.
"""

import mmap
import os
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from ...checkpoint.parallel_read import read_into
from ...dtypes import RAW_FLOATS
from ...errors import CheckpointError
from ...json_types import JsonObject, JsonValue

_STRING, _ARRAY, _BOOL = 8, 9, 7
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "B", 10: "Q", 11: "q", 12: "d"}
_MAX_DIMENSIONS = 4
_MAX_NESTING = 4
_DEFAULT_ALIGNMENT = 32
# Values that are dequantized at once; the gguf package needs several temporary arrays of them.
_STEP_VALUES = 4_000_000
_WRONG_VERSIONS = {
    1: "is of GGUF's version 1, which is no longer read: download a newer file, or convert the original weights",
    2 << 24: "is big-endian, which is not supported: download a little-endian one, or convert the original weights",
    3 << 24: "is big-endian, which is not supported: download a little-endian one, or convert the original weights",
}

# Gives a metadata value by its key, or a default.
Field = Callable[..., Any]


@dataclass(frozen=True)
class GGUFTensor:
    """A tensor in its file: `shape` with the longest stride first, `kind` as ggml names the type."""

    name: str
    shape: tuple[int, ...]
    kind: str
    start: int
    nbytes: int

    @property
    def row_bytes(self) -> int:
        """Bytes of one row, of one value in a vector."""
        return self.nbytes // self.shape[0]

    @property
    def group_size(self) -> int | None:
        """Weights that share a scale, None for floating-point types and where blocks have several scales."""
        _, block, _ = _type_facts_of(self.kind)
        return block if block == 32 else None

    @property
    def dtype(self) -> str:
        """The dtype that rows are read as; quantized ones become float32."""
        return self.kind if self.kind in RAW_FLOATS else "F32"


class GGUFFile:
    """One GGUF file: `fields` with its metadata, `tensors` by name. Raises CheckpointError if it is damaged."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.fields: JsonObject = {}
        self.tensors: dict[str, GGUFTensor] = {}
        try:
            self._file = os.open(path, os.O_RDONLY)
        except OSError as error:
            raise CheckpointError(f"{path} can't be read: {error.strerror}") from None
        try:
            self._parse()
        except BaseException:
            self.close()
            raise

    def read(self, tensor: GGUFTensor, start: int, stop: int) -> np.ndarray:
        """Return rows start:stop, dequantized to float32 if need be; bfloat16 comes as uint16."""
        if tensor.kind in RAW_FLOATS:
            return self._raw(tensor, start, stop).view(RAW_FLOATS[tensor.kind]).reshape(stop - start, *tensor.shape[1:])
        rows = np.empty((stop - start, *tensor.shape[1:]), np.float32)
        step = max(1, _STEP_VALUES // prod(tensor.shape[1:]))
        for at in range(start, stop, step):
            end = min(at + step, stop)
            rows[at - start : end - start] = _dequantize(self._raw(tensor, at, end), tensor.kind)
        return rows

    def close(self) -> None:
        """Close the file."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _raw(self, tensor: GGUFTensor, start: int, stop: int) -> np.ndarray:
        raw = np.empty((stop - start, tensor.row_bytes), np.uint8)
        read_into(self._file, raw.reshape(-1).data, tensor.start + start * tensor.row_bytes)
        return raw

    def _parse(self) -> None:
        size = os.fstat(self._file).st_size
        if size < 24:
            raise CheckpointError(f"{self.path} is not a GGUF file: it has {size} bytes")
        with mmap.mmap(self._file, 0, access=mmap.ACCESS_READ) as data:
            cursor = _Cursor(self.path, data)
            if cursor.take(4) != b"GGUF":
                raise CheckpointError(f"{self.path} is not a GGUF file: it doesn't begin with 'GGUF'")
            version = cursor.number("I")
            if version == 1:
                raise CheckpointError(
                    f"{self.path} is of GGUF version 1, which nothing reads any more: take a newer file of "
                    "the same model (2 or 3)"
                )
            if version not in (2, 3):
                raise CheckpointError(
                    f"{self.path} {_WRONG_VERSIONS.get(version, f'has a damaged header: version {version}')}"
                )
            n_tensors, n_fields = cursor.count(20), cursor.count(12)
            for _ in range(n_fields):
                key = cursor.string()
                if key in self.fields:
                    raise CheckpointError(f"{self.path}: the metadata {key} stands in it twice")
                self.fields[key] = cursor.value(cursor.number("I"))
            described = [cursor.tensor() for _ in range(n_tensors)]
            alignment = self.fields.get("general.alignment", _DEFAULT_ALIGNMENT)
            if not isinstance(alignment, int) or alignment < 1:
                raise CheckpointError(f"{self.path}: general.alignment must be a positive number, not {alignment!r}")
            data_start = -(-cursor.at // alignment) * alignment
        for name, shape, kind, offset in described:
            self._add(name, shape, kind, data_start + offset, size)

    def _add(self, name: str, shape: tuple[int, ...], kind: int, start: int, size: int) -> None:
        if name in self.tensors:
            raise CheckpointError(f"{self.path}: {name} stands in it twice")
        label, block, block_bytes = _type_facts(kind)
        if not label:
            raise CheckpointError(f"{self.path}: {name} is of the unknown type {kind}")
        if not shape or 0 in shape or shape[-1] % block:
            raise CheckpointError(f"{self.path}: {name} of type {label} can't have the shape {list(shape)}")
        nbytes = prod(shape) // block * block_bytes
        if start + nbytes > size:
            raise CheckpointError(f"{self.path} is cut short: {name} ends at byte {start + nbytes}, the file at {size}")
        self.tensors[name] = GGUFTensor(name, shape, label, start, nbytes)


class _Cursor:
    """Reads the parts of a header one after another, each checked against the end of the file."""

    def __init__(self, path: Path, data: mmap.mmap) -> None:
        self.path, self.data, self.size, self.at = path, data, len(data), 0

    def take(self, n: int) -> bytes:
        if n > self.size - self.at:
            raise CheckpointError(f"{self.path} is damaged or cut short: at byte {self.at} of {self.size} {n} are due")
        self.at += n
        return self.data[self.at - n : self.at]

    def number(self, form: str) -> JsonValue:
        return struct.unpack("<" + form, self.take(struct.calcsize(form)))[0]

    def count(self, least_bytes: int) -> int:
        """Read how many entries follow; each takes some bytes, so a damaged count can't start a huge loop."""
        n: int = self.number("Q")
        if n * least_bytes > self.size - self.at:
            raise CheckpointError(f"{self.path} is damaged or cut short: {n} entries can't follow byte {self.at}")
        return n

    def string(self) -> str:
        # Some files hold texts that were cut within a character.
        return self.take(self.number("Q")).decode("utf-8", errors="replace")

    def value(self, kind: int, depth: int = 0) -> JsonValue:
        if kind == _STRING:
            return self.string()
        if kind in _SCALARS:
            number = self.number(_SCALARS[kind])
            return bool(number) if kind == _BOOL else number
        if kind == _ARRAY and depth < _MAX_NESTING:
            inner = self.number("I")
            if inner in _SCALARS:
                return self._numbers(inner)
            n = self.count(8)
            return [self.value(inner, depth + 1) for _ in range(n)]
        raise CheckpointError(f"{self.path} has a damaged header: metadata of the unknown type {kind}")

    def _numbers(self, kind: int) -> list[JsonValue]:
        dtype = np.dtype("<" + ("?" if kind == _BOOL else _SCALARS[kind]))
        n = self.count(dtype.itemsize)
        numbers: list[JsonValue] = np.frombuffer(self.take(n * dtype.itemsize), dtype).tolist()
        return numbers

    def tensor(self) -> tuple[str, tuple[int, ...], int, int]:
        """Read name, shape (longest stride first), type and offset."""
        name, n = self.string(), self.number("I")
        if n > _MAX_DIMENSIONS:
            raise CheckpointError(f"{self.path} has a damaged header: {name!r} with {n} dimensions")
        shape = tuple(self.number("Q") for _ in range(n))[::-1]
        return name, shape, self.number("I"), self.number("Q")


def _type_facts(kind: int) -> tuple[str, int, int]:
    """Return a type's name, values a block and bytes a block; no name if it is unknown."""
    import gguf

    try:
        known = gguf.GGMLQuantizationType(kind)
    except ValueError:
        return "", 0, 0
    return known.name, *gguf.GGML_QUANT_SIZES[known]


def _type_facts_of(name: str) -> tuple[str, int, int]:
    import gguf

    return _type_facts(gguf.GGMLQuantizationType[name])


def _dequantize(raw: np.ndarray, kind: str) -> np.ndarray:
    import gguf

    # A damaged block can hold a NaN as its scale; that is found when the values are checked.
    with np.errstate(all="ignore"):
        return gguf.dequantize(raw, gguf.GGMLQuantizationType[kind])


def unreadable_kinds(tensors: Iterator[GGUFTensor]) -> list[str]:
    """Return the types among the tensors that the gguf package can't dequantize."""
    import gguf

    missing = []
    for kind in sorted({tensor.kind for tensor in tensors} - set(RAW_FLOATS)):
        _, block_bytes = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]]
        try:
            _dequantize(np.zeros((1, block_bytes), np.uint8), kind)
        except NotImplementedError:
            missing.append(kind)
    return missing
