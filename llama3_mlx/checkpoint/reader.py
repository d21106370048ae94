"""A checkpoint's tensors under the model's names, read a block of rows at a time, quantized ones as what they mean."""

import fcntl
import os
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx
import numpy as np

from ..errors import CheckpointError
from ..model.quantization import Scheme
from .safetensors_files import TensorInfo, as_mlx, read_rows

_READ_BYTES = 64_000_000


@dataclass(frozen=True)
class StoredTensor:
    """Where a tensor lies: its file, its name there, and what the file's header says about it."""

    path: Path
    stored_name: str
    info: TensorInfo

    @property
    def dtype(self) -> str:
        """The dtype as safetensors files name it."""
        return self.info.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape as stored: of quantized matrices that of the packed words."""
        return self.info.shape

    @property
    def nbytes(self) -> int:
        """Bytes in the file."""
        return self.info.nbytes


class CheckpointReader:
    """Reads rows of a checkpoint's tensors, in any thread.

    Each read opens its file: a large model has more shards than macOS lets a process have open files.
    """

    def __init__(self, tensors: Mapping[str, StoredTensor], schemes: Mapping[str, Scheme]) -> None:
        self.tensors, self.schemes = tensors, schemes
        self._past_cache = False

    def read_past_cache(self) -> None:
        """Have the system read from the disk what it may still hold in memory, where it can: for verification."""
        self._past_cache = True

    def raw(self, name: str, start: int, stop: int) -> np.ndarray:
        """Return rows as they are stored, bfloat16 as uint16."""
        tensor = self.tensors[name]
        with self._file(tensor.path) as file:
            return read_rows(file, tensor.info, start, stop)

    def dequantized(self, name: str, start: int, stop: int) -> np.ndarray:
        """Return rows of a tensor in float32, of a quantized matrix what its words, scales and biases stand for."""
        path = name.removesuffix(".weight")
        scheme = self.schemes.get(path) if path != name else None
        if scheme is None:
            return np.array(self._mlx(name, start, stop).astype(mx.float32))
        return dequantize([self._mlx(part, start, stop) for part in self.parts(path)], scheme)

    def parts(self, path: str) -> list[str]:
        """Return the names of the tensors of a quantized module: words, scales and, in affine mode, biases."""
        names = (f"{path}.{part}" for part in ("weight", "scales", "biases"))
        return [name for name in names if name in self.tensors]

    def kind(self, name: str) -> str:
        """Return how a tensor is stored: mode, bits and group size, or its dtype."""
        scheme = self.schemes.get(name.removesuffix(".weight"))
        return f"{scheme.mode} {scheme.bits}/{scheme.group_size}" if scheme else self.tensors[name].dtype

    def crc(self, name: str) -> int:
        """Return the CRC-32 of a tensor's bytes."""
        value = 0
        for start, stop in self._blocks(name):
            value = zlib.crc32(self.raw(name, start, stop).data.cast("B"), value)
        return value

    def equal(self, name: str, other: str) -> bool:
        """Return whether two tensors are the same, byte for byte; reads no further than their first difference."""
        one, two = self.tensors[name], self.tensors[other]
        if (one.dtype, one.shape) != (two.dtype, two.shape):
            return False
        return all(
            np.array_equal(self.raw(name, start, stop), self.raw(other, start, stop))
            for start, stop in self._blocks(name)
        )

    def _blocks(self, name: str) -> list[tuple[int, int]]:
        tensor = self.tensors[name]
        rows = tensor.shape[0] if tensor.shape else 1
        step = max(1, _READ_BYTES // max(1, tensor.nbytes // max(1, rows)))
        return [(start, start + step) for start in range(0, rows, step)]

    def _mlx(self, name: str, start: int, stop: int) -> mx.array:
        return as_mlx(self.raw(name, start, stop), self.tensors[name].dtype)

    @contextmanager
    def _file(self, path: Path) -> Iterator[int]:
        try:
            file = os.open(path, os.O_RDONLY)
        except OSError as error:
            raise CheckpointError(f"{path} can't be read: {error.strerror}") from None
        try:
            if self._past_cache:
                _bypass_cache(file)
            yield file
        finally:
            os.close(file)


def dequantize(arrays: Sequence[mx.array], scheme: Scheme) -> np.ndarray:
    """Return in float32 what packed words, scales and (in affine mode) biases stand for."""
    weight, scales, *biases = (a.astype(mx.float32) if a.dtype in (mx.float16, mx.bfloat16) else a for a in arrays)
    rows = mx.dequantize(
        weight,
        scales,
        biases[0] if biases else None,
        group_size=scheme.group_size,
        bits=scheme.bits,
        mode=scheme.mode,
    )
    return np.array(rows.astype(mx.float32))


def _bypass_cache(file: int) -> None:
    if hasattr(fcntl, "F_NOCACHE"):
        fcntl.fcntl(file, fcntl.F_NOCACHE, 1)
    elif hasattr(os, "posix_fadvise"):
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
