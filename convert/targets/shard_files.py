"""The one writer of safetensors and GGUF bytes: rows go to their places in files whose layout is known beforehand."""

import errno
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import mlx.core as mx
import numpy as np

from ...checkpoint.weight_files import INDEX_NAME
from ...dtypes import STORED_DTYPES
from ...files import fsync_path
from ..plan import SHARD_BYTES, OutputTensor, shard_tensors
from ..sources.side_files import write_json
from .layout import FileLayout, TensorRegion, safetensors_index, safetensors_layout

_STORED_NAMES = {dtype.mlx: name for name, dtype in STORED_DTYPES.items() if dtype.mlx is not None}


class ShardFiles:
    """Files in a folder. One is open only while something is written: macOS lets a process have few open files."""

    def __init__(self, folder: Path, layouts: Mapping[str, FileLayout]) -> None:
        self.folder, self.layouts = folder, layouts
        self._regions: dict[str, tuple[str, TensorRegion]] = {
            tensor: (name, region) for name, layout in layouts.items() for tensor, region in layout.places.items()
        }
        self._unflushed: set[str] = set()

    def create(self) -> None:
        """Make the files that aren't there in their size, with their headers."""
        for name, layout in self.layouts.items():
            with self._open(name) as file:
                if os.fstat(file).st_size != layout.size:
                    # Reserving the space now makes a full disk known before the work, where the system can.
                    _allocate(file, layout.size)
                    write_at(file, memoryview(layout.header), 0)

    def write_rows(self, name: str, start: int, rows: np.ndarray) -> memoryview:
        """Write the rows of a tensor that begin at row `start`, and return their bytes."""
        file_name, region = self._regions[name]
        data = memoryview(np.ascontiguousarray(rows).data).cast("B")
        with self._open(file_name) as file:
            write_at(file, data, region.offset + start * region.row_bytes)
        return data

    def take_unflushed(self) -> set[str]:
        """Return the names of the files written to since the last call, which the caller is to flush."""
        names, self._unflushed = self._unflushed, set()
        return names

    def flush(self, names: Iterable[str]) -> None:
        """Flush files to the disk."""
        for name in names:
            fsync_path(self.folder / name)

    @contextmanager
    def _open(self, name: str) -> Iterator[int]:
        self._unflushed.add(name)
        file = os.open(self.folder / name, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            yield file
        finally:
            os.close(file)


def write_tensors(folder: Path, tensors: list[tuple[str, mx.array]], shard_bytes: int = SHARD_BYTES) -> int:
    """Write tensors as shards with their index into a folder, and return their bytes.

    They are evaluated one after another, and the list is emptied, so that no more than one needs to be in memory.
    """
    outputs = [OutputTensor(name, _STORED_NAMES[array.dtype], tuple(array.shape)) for name, array in tensors]
    shards = shard_tensors(outputs, shard_bytes)
    files = ShardFiles(folder, {name: safetensors_layout(held, "mlx") for name, held in shards.items()})
    files.create()
    tensors.reverse()
    while tensors:
        name, array = tensors.pop()
        mx.eval(array)
        files.write_rows(name, 0, as_numpy(array))
    files.flush(files.take_unflushed())
    write_json(folder / INDEX_NAME, safetensors_index(shards))
    return sum(output.nbytes for output in outputs)


def as_numpy(array: mx.array) -> np.ndarray:
    """Return an array for writing, bfloat16 as uint16."""
    return np.array(array.view(mx.uint16) if array.dtype == mx.bfloat16 else array)


def write_at(file: int, data: memoryview, offset: int) -> None:
    """Write all of `data` at a byte offset; one call of the system may write less."""
    at = 0
    while at < len(data):
        at += os.pwrite(file, data[at : at + (1 << 30)], offset + at)


def _allocate(file: int, size: int) -> None:
    if hasattr(os, "posix_fallocate"):
        try:
            os.posix_fallocate(file, 0, size)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):
                raise
    os.ftruncate(file, size)
