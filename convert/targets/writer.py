"""Writes tensors into files whose layout is known beforehand; an interrupted run is resumed.

A file's header and size are known beforehand, so it is made at once and rows go to their places. A tensor counts as
done when its module stands in the journal, which is written after the files are flushed.
"""

import shutil
import zlib
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from ...errors import ConversionError
from ...files import place_of
from .journal import Checksums, Journal
from .layout import FileLayout
from .shard_files import ShardFiles

# Work that is lost when a run is killed, at most.
FLUSH_BYTES = 128_000_000


class ShardWriter:
    """Writes the files into `partial`/model; `partial` also holds the journal until everything is written."""

    def __init__(self, partial: Path, layouts: Mapping[str, FileLayout], state: Mapping[str, object]) -> None:
        self.partial, self.layouts, self.folder = partial, layouts, partial / "model"
        self._files = ShardFiles(self.folder, layouts)
        self._crc: dict[str, int] = {}
        self._finished: dict[str, Checksums] = {}
        self._unflushed = 0
        self._flush: Future[None] | None = None
        self._flushing = ThreadPoolExecutor(1, "convert-flush")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConversionError(f"{partial.parent} can't be written to: {error.strerror}") from None
        with self._disk_errors():
            self._journal = Journal(partial / "journal", state)
            try:
                self._check_files()
                self._files.create()
            except BaseException:
                self.close()
                raise

    @property
    def done(self) -> Mapping[str, Checksums]:
        """The finished modules, with the checksum of each of their tensors."""
        return self._journal.done

    def _check_files(self) -> None:
        """Start over unless the journal's files are there; delete what isn't one of them."""
        paths = {self.folder / name: layout.size for name, layout in self.layouts.items()}
        if self.done and not all(path.exists() and path.stat().st_size == size for path, size in paths.items()):
            self._journal.start_over()
        for old in self.folder.iterdir():
            if old not in paths or not self.done:
                shutil.rmtree(old) if old.is_dir() else old.unlink()

    def write_rows(self, name: str, start: int, rows: np.ndarray) -> None:
        """Write the rows of a tensor that begin at row `start`; the blocks of a tensor come in order."""
        with self._disk_errors():
            data = self._files.write_rows(name, start, rows)
        self._crc[name] = zlib.crc32(data, self._crc[name] if start else 0)
        self._unflushed += len(data)

    def finish_module(self, path: str) -> None:
        """Note that every tensor of a module is written."""
        self._finished[path] = dict(self._crc)
        self._crc.clear()
        if self._unflushed >= FLUSH_BYTES:
            self._start_flush()

    def flush(self) -> None:
        """Flush all data and note in the journal what is done."""
        self._start_flush()
        self._wait_for_flush()

    def _start_flush(self) -> None:
        """Flush in a thread what is written so far, one flush at a time, while writing continues."""
        self._wait_for_flush()
        finished, self._finished, self._unflushed = self._finished, {}, 0
        self._flush = self._flushing.submit(self._flush_files, self._files.take_unflushed(), finished)

    def _wait_for_flush(self) -> None:
        if self._flush:
            flush, self._flush = self._flush, None
            flush.result()

    def _flush_files(self, names: Iterable[str], finished: Mapping[str, Checksums]) -> None:
        with self._disk_errors():
            self._files.flush(names)
            self._journal.add(finished)

    def close(self) -> None:
        """Close the journal, after a flush that is on its way."""
        self._flushing.shutdown()
        self._journal.close()

    @contextmanager
    def _disk_errors(self) -> Iterator[None]:
        """Turn a failed write into one line that names what is kept."""
        try:
            yield
        except OSError as error:
            raise self.failure(error) from None

    def failure(self, error: OSError) -> ConversionError:
        """Return the error for a write that failed: one line that names what is kept."""
        place = place_of(error)
        return ConversionError(
            f"writing failed: {error.strerror}{f' ({place})' if place else ''}; what is done is kept in "
            f"{self.partial}, and the same command resumes from there"
        )
