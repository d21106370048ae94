"""Writes the planned tensors into shard files as their rows come, and goes on where a killed run stopped.

A shard's header and size are known from the plan, so its file is laid out at once and rows go to their places. A
tensor counts as done when its module stands in the journal, which is written after the shard is flushed.
"""

import errno
import json
import os
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import ConversionError
from .journal import Checksums, Journal
from .plan import OutputTensor, Plan

# So much work is lost at most when a run is killed.
_FLUSH_BYTES = 128_000_000


class ShardWriter:
    """Writes shard files into `partial`/model; `partial` holds the journal beside it until all is done."""

    def __init__(self, partial: Path, plan: Plan, state: Mapping[str, Any]) -> None:
        self.partial, self.plan, self.folder = partial, plan, partial / "model"
        self._places: dict[str, tuple[str, int, OutputTensor]] = {}
        self._files: dict[str, int] = {}
        self._crc: dict[str, int] = {}
        self._finished: dict[str, Checksums] = {}
        self._unflushed = 0
        headers = {name: make_header(tensors) for name, tensors in plan.shards.items()}
        with self._disk_errors():
            self.folder.mkdir(parents=True, exist_ok=True)
            self._journal = Journal(partial / "journal", state)
            try:
                self._check_files({name: len(header) for name, header in headers.items()})
                for name, tensors in plan.shards.items():
                    self._lay_out(name, headers[name], tensors)
            except BaseException:
                self.close()
                raise

    @property
    def done(self) -> Mapping[str, Checksums]:
        """The finished modules, with the checksum of each of their tensors."""
        return self._journal.done

    def _check_files(self, header_bytes: Mapping[str, int]) -> None:
        """Start anew unless the files that the journal speaks of are there; what doesn't belong here goes."""
        sizes = {
            name: header_bytes[name] + sum(t.nbytes for t in tensors) for name, tensors in self.plan.shards.items()
        }
        paths = {name: self.folder / name for name in sizes}
        if self.done and not all(path.exists() and path.stat().st_size == sizes[n] for n, path in paths.items()):
            self._journal.start_anew()
        for old in self.folder.iterdir():
            if old.name not in paths or not self.done:
                old.unlink()

    def _lay_out(self, name: str, header: bytes, tensors: tuple[OutputTensor, ...]) -> None:
        file = os.open(self.folder / name, os.O_RDWR | os.O_CREAT, 0o666)
        self._files[name] = file
        size = len(header) + sum(tensor.nbytes for tensor in tensors)
        if os.fstat(file).st_size != size:
            # Reserving the space now makes a full disk known before the work, where the system can.
            _allocate(file, size)
            os.pwrite(file, header, 0)
        at = len(header)
        for tensor in tensors:
            self._places[tensor.name] = (name, at, tensor)
            at += tensor.nbytes

    def write_rows(self, name: str, start: int, rows: np.ndarray) -> None:
        """Write the rows of a tensor that begin at row `start`; the blocks of a tensor come in order."""
        file, offset, tensor = self._places[name]
        row_bytes = tensor.nbytes // tensor.shape[0]
        data = memoryview(np.ascontiguousarray(rows).data).cast("B")
        with self._disk_errors():
            write_at(self._files[file], data, offset + start * row_bytes)
        self._crc[name] = zlib.crc32(data, self._crc[name] if start else 0)
        self._unflushed += len(data)

    def finish_module(self, path: str) -> None:
        """Note that every tensor of a module is written."""
        self._finished[path] = dict(self._crc)
        self._crc.clear()
        if self._unflushed >= _FLUSH_BYTES:
            self.flush()

    def flush(self) -> None:
        """Flush the data, then note in the journal what is done."""
        with self._disk_errors():
            for file in self._files.values():
                os.fsync(file)
            self._journal.add(self._finished)
        self._finished.clear()
        self._unflushed = 0

    def close(self) -> None:
        """Close the files."""
        for file in self._files.values():
            os.close(file)
        self._files.clear()
        self._journal.close()

    @contextmanager
    def _disk_errors(self) -> Iterator[None]:
        """Turn a failed write into one line that says what is kept."""
        try:
            yield
        except OSError as error:
            raise ConversionError(
                f"writing failed: {error.strerror}; what is done is kept in {self.partial}, and the same command goes "
                "on from there once it can"
            ) from None


def make_header(tensors: tuple[OutputTensor, ...]) -> bytes:
    """Return the beginning of a shard file: length and JSON header, padded so that the data is aligned."""
    header: dict[str, Any] = {"__metadata__": {"format": "mlx"}}
    at = 0
    for tensor in tensors:
        offsets = [at, at + tensor.nbytes]
        header[tensor.name] = {"dtype": tensor.dtype, "shape": list(tensor.shape), "data_offsets": offsets}
        at += tensor.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


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
