"""A forecast of a conversion, measured on a sample: the same code on some layers and a part of embedding and head."""

import os
import re
import resource
import sys
import tempfile
import time
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from math import prod
from pathlib import Path

import numpy as np

from . import pipeline
from .sources.source import TensorRef
from .targets.destination import lacking_space
from .targets.folder import Target, total_bytes
from .targets.shard_files import write_at
from .targets.writer import FLUSH_BYTES

# Blocks of rows of embedding and head in the sample; one is read, one converted, one written at a time.
_SAMPLE_BLOCKS = 8
# Weights that the sampled layers have, where there are so many: the time of few varies too much.
_SAMPLE_VALUES = 450_000_000
# Among the many blocks of a conversion some are freed later than any of a sample's: its peak is up to a sixth higher.
_LONGER = 1.08
_LAYER = re.compile(r"model\.layers\.(\d+)\.")


@dataclass(frozen=True)
class Forecast:
    """What a conversion would write and need: files with their bytes; memory and time estimated from a sample."""

    files: Mapping[str, int]
    parameters: int
    total_bytes: int
    bits_per_weight: float
    peak_memory_bytes: int
    seconds: float
    quantizer: str | None
    notes: tuple[str, ...]

    def at(self, bits_per_weight: float) -> "Forecast":
        """Return the forecast for another number of bits, files in the same proportion."""
        share = bits_per_weight / self.bits_per_weight
        files = {name: round(size * share) for name, size in self.files.items()}
        total = round(self.total_bytes * share)
        return replace(self, files=files, total_bytes=total, bits_per_weight=bits_per_weight)


def forecast(target: Target, dest: Path) -> Forecast:
    """Convert a sample of the target into a file without a name, and extrapolate from it."""
    place, place_notes = _sample_folder(target, dest)
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        target.write_side_files(Path(folder))
        side_files_s = time.perf_counter() - began
    size = total_bytes(target)
    return Forecast(
        files={name: layout.size for name, layout in target.layouts.items()},
        parameters=target.parameters,
        total_bytes=size,
        bits_per_weight=size * 8 / target.parameters,
        seconds=_conversion_seconds(target, place) + side_files_s,
        peak_memory_bytes=round(peak_memory() * _LONGER),
        quantizer=target.quantizer,
        notes=(*target.notes(), *place_notes),
    )


def _conversion_seconds(target: Target, folder: Path) -> float:
    """Measure the first layer and first blocks, which include what is done once, then some more to extrapolate from.

    Embedding and head are sampled in blocks of rows.
    """
    layers, others = _split(target.refs())
    first = [*layers[0], *(_cut(ref, 0, 1) for ref in others)]
    chosen = _evenly(layers[1:])
    more = [cut for ref in others if (cut := _cut(ref, 1, 1 + _SAMPLE_BLOCKS)).rows]
    parts = [first, [ref for layer in chosen for ref in layer], more]
    watch = _Stopwatch([len(part) for part in parts])
    with tempfile.TemporaryFile(dir=folder) as file:
        writer = _SampleWriter(file.fileno())
        pipeline.convert_tensors(target, [ref for part in parts for ref in part], writer, watch)
        began = time.perf_counter()
        os.fsync(file.fileno())
        flush_rate = (time.perf_counter() - began) / writer.nbytes
    once, middle, others_s = watch.took
    took = once
    if chosen:
        took += middle / len(chosen) * (len(layers) - 1)
    if more:
        took += others_s / _nbytes(more) * sum(ref.nbytes - _cut(ref, 0, 1).nbytes for ref in others)
    # Flushing overlaps with converting, except for the last part.
    size = total_bytes(target)
    return max(took, flush_rate * size) + flush_rate * min(size, FLUSH_BYTES)


def forecast_values(values: Forecast) -> dict[str, object]:
    """Return the forecast as plain values, for --json."""
    return asdict(values)


def peak_memory() -> int:
    """Return the most memory in bytes that this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


class _Stopwatch:
    """Measures the seconds that parts of a conversion take; `took` has those that are finished."""

    def __init__(self, parts: list[int]) -> None:
        """Take the number of tensors in each part; an empty one takes no time."""
        self.took = [0.0] * len(parts)
        self._part_of = [number for number, count in enumerate(parts) for _ in range(count)]
        self._finished = 0

    def stage(self, name: str) -> None:
        return

    def start(self, total_tensors: int, total_bytes: int) -> None:
        self._began = time.perf_counter()

    def advance(self, tensor: str, n_bytes: int, *, finished: bool) -> None:
        now = time.perf_counter()
        self.took[self._part_of[self._finished]] += now - self._began
        self._began = now
        self._finished += finished


class _SampleWriter:
    """Writes rows one after the other, whatever tensor they are of."""

    def __init__(self, file: int) -> None:
        self._file = file
        self.nbytes = 0
        self.done: Mapping[str, object] = {}

    def write_rows(self, name: str, start: int, rows: np.ndarray) -> None:
        data = memoryview(np.ascontiguousarray(rows).data).cast("B")
        write_at(self._file, data, self.nbytes)
        zlib.crc32(data)
        self.nbytes += len(data)

    def finish_module(self, path: str) -> None:
        return


def _split(refs: list[TensorRef]) -> tuple[list[list[TensorRef]], list[TensorRef]]:
    """Return the tensors of each layer, and those that are in none."""
    layers: dict[str, list[TensorRef]] = {}
    others = []
    for ref in refs:
        found = _LAYER.match(ref.name)
        if found:
            layers.setdefault(found[1], []).append(ref)
        else:
            others.append(ref)
    return list(layers.values()), others


def _evenly(layers: list[list[TensorRef]]) -> list[list[TensorRef]]:
    """Return some of the layers, evenly spaced: at least one, more where they are small."""
    if not layers:
        return []
    values = sum(prod(ref.shape) for ref in layers[0])
    count = min(len(layers), max(1, _SAMPLE_VALUES // values))
    return [layers[(2 * n + 1) * len(layers) // (2 * count)] for n in range(count)]


def _cut(ref: TensorRef, first: int, end: int) -> TensorRef:
    """Return a tensor's blocks of rows from one to another."""
    columns = ref.shape[1] if len(ref.shape) > 1 else 1
    step = max(1, pipeline.BLOCK_VALUES // columns)
    start, stop = min(ref.rows, first * step), min(ref.rows, end * step)

    def read(begin: int, end: int) -> np.ndarray:
        return ref.read(start + begin, start + end)

    nbytes = ref.nbytes * (stop - start) // ref.rows
    return replace(ref, shape=(stop - start, *ref.shape[1:]), nbytes=nbytes, read=read)


def _nbytes(refs: list[TensorRef]) -> int:
    return sum(ref.nbytes for ref in refs)


def _sample_folder(target: Target, dest: Path) -> tuple[Path, list[str]]:
    """Return a folder on the disk of the result, since disks differ in speed, or where that can't be, a temporary one.

    A note says where the conversion itself could not be written.
    """
    parent = next(path for path in dest.parents if path.is_dir())
    if lacking_space(dest, sum(layout.size for layout in target.layouts.values())):
        return Path(tempfile.gettempdir()), []
    try:
        with tempfile.TemporaryFile(dir=parent):
            return parent, []
    except OSError as error:
        return Path(tempfile.gettempdir()), [f"{parent} can't be written to: {error.strerror}; choose another place"]
