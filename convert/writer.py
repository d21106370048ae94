"""Writes the planned tensors into shard files as their rows come, and goes on where a killed run stopped.

A shard's header and size are known from the plan, so its file is laid out at once and rows go to their places. A
tensor counts as done when its name stands in the journal, which is written after the shard is flushed.
"""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import ConversionError
from .plan import OutputTensor, Plan

JOURNAL = "conversion.journal"
_FLUSH_BYTES = 1_000_000_000


class ShardWriter:
    """Writes into `folder`, a partial folder that becomes the destination when all is done."""

    def __init__(self, folder: Path, plan: Plan, state: Mapping[str, Any]) -> None:
        self.folder, self.plan = folder, plan
        folder.mkdir(parents=True, exist_ok=True)
        self.done = self._resume(json.dumps(state, sort_keys=True))
        self._places: dict[str, tuple[str, int, OutputTensor]] = {}
        self._files: dict[str, int] = {}
        self._finished: list[str] = []
        self._unflushed = 0
        for name, tensors in plan.shards.items():
            self._lay_out(name, tensors)

    def _resume(self, state: str) -> set[str]:
        """Return the modules that an earlier run with the same state finished; start anew if the state differs."""
        path = self.folder / JOURNAL
        lines = path.read_text(encoding="utf-8").split("\n") if path.exists() else []
        if lines and lines[0] == state:
            # A line without its newline may have been cut short.
            return {line for line in lines[1:-1] if line}
        for old in self.folder.iterdir():
            old.unlink()
        path.write_text(state + "\n", encoding="utf-8")
        return set()

    def _lay_out(self, name: str, tensors: tuple[OutputTensor, ...]) -> None:
        header: dict[str, Any] = {"__metadata__": {"format": "mlx"}}
        at = 0
        for tensor in tensors:
            header[tensor.name] = {
                "dtype": tensor.dtype,
                "shape": list(tensor.shape),
                "data_offsets": [at, at + tensor.nbytes],
            }
            at += tensor.nbytes
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        start = 8 + len(text)
        with _disk_errors(self.folder):
            file = os.open(self.folder / name, os.O_RDWR | os.O_CREAT, 0o666)
            self._files[name] = file
            # Reserving the space now makes a full disk known before the work, where the system can.
            _allocate(file, start + at)
            os.pwrite(file, len(text).to_bytes(8, "little") + text, 0)
        for tensor in tensors:
            self._places[tensor.name] = (name, start + header[tensor.name]["data_offsets"][0], tensor)

    def write_rows(self, name: str, start: int, rows: np.ndarray) -> None:
        """Write the rows of a tensor that begin at row `start`."""
        file, offset, tensor = self._places[name]
        row_bytes = tensor.nbytes // tensor.shape[0]
        data = memoryview(np.ascontiguousarray(rows).data).cast("B")
        with _disk_errors(self.folder):
            at = 0
            while at < len(data):
                at += os.pwrite(self._files[file], data[at : at + (1 << 30)], offset + start * row_bytes + at)
        self._unflushed += len(data)

    def finish_module(self, path: str) -> None:
        """Note that every tensor of a module is written."""
        self._finished.append(path)
        if self._unflushed >= _FLUSH_BYTES:
            self.flush()

    def flush(self) -> None:
        """Flush the data, then note in the journal what is done."""
        with _disk_errors(self.folder):
            for file in self._files.values():
                os.fsync(file)
            with (self.folder / JOURNAL).open("a", encoding="utf-8") as journal:
                journal.writelines(f"{path}\n" for path in self._finished)
                journal.flush()
                os.fsync(journal.fileno())
        self.done.update(self._finished)
        self._finished.clear()
        self._unflushed = 0

    def close(self) -> None:
        """Close the files."""
        for file in self._files.values():
            os.close(file)
        self._files.clear()


@contextmanager
def _disk_errors(folder: Path) -> Iterator[None]:
    """Turn a failed write into one line that says what is kept."""
    try:
        yield
    except OSError as error:
        raise ConversionError(
            f"writing failed: {error.strerror}; what is done is kept in {folder}, and the same command goes on from "
            "there once it can"
        ) from None


def _allocate(file: int, size: int) -> None:
    if os.fstat(file).st_size == size:
        return
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file, 0, size)
    os.ftruncate(file, size)
