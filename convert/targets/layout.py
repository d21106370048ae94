"""Where tensors lie in the files to be written, known before a weight is read."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ..plan import OutputTensor


@dataclass(frozen=True)
class TensorRegion:
    """Where the rows of a tensor go: byte offset in its file, bytes of a row, number of rows."""

    offset: int
    row_bytes: int
    rows: int

    @property
    def nbytes(self) -> int:
        """Bytes of the tensor."""
        return self.row_bytes * self.rows


@dataclass(frozen=True)
class FileLayout:
    """A file to be written: what it begins with, where its tensors go, its size."""

    header: bytes
    places: Mapping[str, TensorRegion]
    size: int


def safetensors_index(shards: Mapping[str, Iterable[OutputTensor]], parameters: int | None = None) -> dict[str, object]:
    """Return the content of model.safetensors.index.json: the file of each tensor, and what they come to."""
    held = [(tensor, name) for name, tensors in shards.items() for tensor in tensors]
    metadata = {"total_size": sum(tensor.nbytes for tensor, _ in held), "total_parameters": parameters}
    return {
        "metadata": {name: value for name, value in metadata.items() if value is not None},
        "weight_map": dict(sorted((tensor.name, name) for tensor, name in held)),
    }


def safetensors_layout(tensors: Iterable[OutputTensor], form: str) -> FileLayout:
    """Lay out a safetensors file whose metadata says `form`, its data aligned to 8 bytes.

    Source of the format: https://github.com/huggingface/safetensors (README).
    """
    entries: dict[str, object] = {"__metadata__": {"format": form}}
    held, at = list(tensors), 0
    for tensor in held:
        offsets = [at, at + tensor.nbytes]
        entries[tensor.name] = {"dtype": tensor.dtype, "shape": list(tensor.shape), "data_offsets": offsets}
        at += tensor.nbytes
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    header = len(text).to_bytes(8, "little") + text
    places, offset = {}, len(header)
    for tensor in held:
        places[tensor.name] = TensorRegion(offset, tensor.nbytes // tensor.shape[0], tensor.shape[0])
        offset += tensor.nbytes
    return FileLayout(header, places, offset)
