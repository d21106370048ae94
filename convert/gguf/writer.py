"""The beginning of a GGUF file: metadata and where its tensors lie.

Source of the format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from ...json_types import JsonMapping, JsonValue
from ..targets.layout import FileLayout, TensorRegion
from .tensor_types import TYPES

_ALIGNMENT = 32
_VERSION = 3
_UINT32, _INT32, _FLOAT32, _BOOL, _STRING, _ARRAY = 4, 5, 6, 7, 8, 9


@dataclass(frozen=True)
class GGUFOutput:
    """A tensor to be written: `shape` with the longest stride first, `kind` as ggml names the type."""

    name: str
    shape: tuple[int, ...]
    kind: str

    @property
    def row_bytes(self) -> int:
        """Bytes of a row; of one value in a vector."""
        kind = TYPES[self.kind]
        return prod(self.shape[1:]) // kind.block * kind.block_bytes


def gguf_layout(fields: JsonMapping, tensors: Sequence[GGUFOutput]) -> FileLayout:
    """Lay out a GGUF file. Whole numbers are written as uint32, lists of them as int32; other numbers as float32."""
    offsets, at = [], 0
    for tensor in tensors:
        offsets.append(at)
        at = _aligned(at + tensor.row_bytes * tensor.shape[0])
    header = b"".join(
        [
            b"GGUF" + struct.pack("<IQQ", _VERSION, len(tensors), len(fields)),
            *(_string(key) + _typed(value) for key, value in fields.items()),
            *(_info(tensor, offset) for tensor, offset in zip(tensors, offsets, strict=True)),
        ]
    )
    header += bytes(_aligned(len(header)) - len(header))
    places = {
        tensor.name: TensorRegion(len(header) + offset, tensor.row_bytes, tensor.shape[0])
        for tensor, offset in zip(tensors, offsets, strict=True)
    }
    return FileLayout(header, places, len(header) + at)


def _aligned(at: int) -> int:
    return -(-at // _ALIGNMENT) * _ALIGNMENT


def _info(tensor: GGUFOutput, offset: int) -> bytes:
    dimensions = tensor.shape[::-1]
    shape = struct.pack(f"<I{len(dimensions)}Q", len(dimensions), *dimensions)
    return _string(tensor.name) + shape + struct.pack("<IQ", TYPES[tensor.kind].number, offset)


def _typed(value: JsonValue) -> bytes:
    """Return a metadata value with its type before it."""
    if isinstance(value, bool):
        return struct.pack("<I?", _BOOL, value)
    if isinstance(value, int):
        return struct.pack("<II", _UINT32, value)
    if isinstance(value, float):
        return struct.pack("<If", _FLOAT32, value)
    if isinstance(value, str):
        return struct.pack("<I", _STRING) + _string(value)
    if all(isinstance(entry, str) for entry in value):
        return struct.pack("<IIQ", _ARRAY, _STRING, len(value)) + b"".join(map(_string, value))
    if any(isinstance(entry, float) for entry in value):
        return struct.pack(f"<IIQ{len(value)}f", _ARRAY, _FLOAT32, len(value), *value)
    return struct.pack(f"<IIQ{len(value)}i", _ARRAY, _INT32, len(value), *value)


def _string(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data
