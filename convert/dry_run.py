"""What a conversion will need, measured on a sample of it: the same code, on a few blocks of rows."""

import os
import resource
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..quantization import AFFINE_BITS, Scheme
from . import pipeline
from .layout import Place
from .target import Target, total_bytes
from .tensors import Source, TensorRef
from .writer import write_at

# Blocks of the largest tensor: one is read, one converted, one written at the same time.
_SAMPLE_BLOCKS = 5


@dataclass(frozen=True)
class Forecast:
    """What a conversion would write and need. Files with their bytes; memory and time estimated from a sample."""

    files: Mapping[str, int]
    parameters: int
    total_bytes: int
    bits_per_weight: float
    peak_memory_bytes: int
    seconds: float
    quantiser: str | None
    warnings: tuple[str, ...]

    def at(self, bits_per_weight: float) -> "Forecast":
        """Return the forecast for another number of bits, files in the same proportion."""
        share = bits_per_weight / self.bits_per_weight
        files = {name: round(size * share) for name, size in self.files.items()}
        total = round(self.total_bytes * share)
        return replace(self, files=files, total_bytes=total, bits_per_weight=bits_per_weight)


def uniform_bits(target_bpw: float) -> int:
    """Return the bits in groups of 64 that come nearest to a target, with 16-bit scales and biases."""
    return min(AFFINE_BITS, key=lambda bits: abs(Scheme(bits=bits, group_size=64).bits_per_weight - target_bpw))


def forecast(target: Target, source: Source, dest: Path) -> Forecast:
    """Convert a sample of the target into a file without a name, and reckon from it."""
    refs = target.refs()
    sample = _sampled(refs)
    with tempfile.TemporaryFile(dir=_existing(dest.parent)) as file:
        writer = _SampleWriter(file.fileno(), target)
        began = time.perf_counter()
        pipeline.convert_tensors(target, sample, writer)
        os.fsync(file.fileno())
        took = time.perf_counter() - began
    with tempfile.TemporaryDirectory() as folder:
        beside = time.perf_counter()
        source.save_side_files(Path(folder))
        beside = time.perf_counter() - beside
    size = total_bytes(target)
    share = sum(ref.nbytes for ref in sample) / sum(ref.nbytes for ref in refs)
    return Forecast(
        files={name: layout.size for name, layout in target.layouts.items()},
        parameters=target.parameters,
        total_bytes=size,
        bits_per_weight=size * 8 / target.parameters,
        peak_memory_bytes=peak_memory(),
        seconds=took / share + beside,
        quantiser=target.quantiser,
        warnings=tuple(target.warnings()),
    )


def forecast_values(values: Forecast) -> dict[str, Any]:
    """Return the forecast as plain values, for --json."""
    return asdict(values)


def peak_memory() -> int:
    """Return the most memory in bytes that this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


class _SampleWriter:
    """Writes rows at the beginning of a file, so that it stays small."""

    def __init__(self, file: int, target: Target) -> None:
        self._file = file
        self._places: dict[str, Place] = {
            name: place for layout in target.layouts.values() for name, place in layout.places.items()
        }
        self.done: Mapping[str, Any] = {}

    def write_rows(self, name: str, start: int, rows: np.ndarray) -> None:
        data = memoryview(np.ascontiguousarray(rows).data).cast("B")
        write_at(self._file, data, 0)

    def finish_module(self, path: str) -> None:
        return


def _sampled(refs: list[TensorRef]) -> list[TensorRef]:
    """Return a tensor of each shape, cut to a few blocks."""
    shapes = {ref.shape: ref for ref in refs}
    return [_cut(ref) for ref in shapes.values()]


def _cut(ref: TensorRef) -> TensorRef:
    columns = ref.shape[1] if len(ref.shape) > 1 else 1
    rows = min(ref.rows, _SAMPLE_BLOCKS * max(1, pipeline.BLOCK_VALUES // columns))
    return replace(ref, shape=(rows, *ref.shape[1:]), nbytes=ref.nbytes * rows // ref.rows)


def _existing(folder: Path) -> Path:
    return next(path for path in (folder, *folder.parents) if path.is_dir())
