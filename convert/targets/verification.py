"""Re-reads a converted folder: every tensor against its checksum, every module against the source's weights."""

import fcntl
import os
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import mlx.core as mx
import numpy as np

from ...checkpoint.loading import quantized_modules
from ...checkpoint.safetensors_files import TensorInfo, as_mlx, checkpoint_files, read_header, read_rows
from ...errors import CheckpointError
from ...model.channel_scales import load_scales
from ...model.config import load_config
from ...model.parameters import check_tensors, stored_tensors
from ...model.quantization import Scheme
from ..sources.source import TensorRef, dequantize
from .record import load_record

_READ_BYTES = 64_000_000
_READ_VALUES = 16_000_000
# A quantized matrix this far from its source holds something else than the source.
_MAX_RELATIVE_ERROR = 0.9


@dataclass(frozen=True)
class ModuleError:
    """How far a tensor is from the source's: root mean square of the difference over that of the weights."""

    tensor: str
    stored_as: str
    relative_error: float
    largest_error: float


@dataclass(frozen=True)
class Verification:
    """What was found right: the tensors whose checksums agree, and each one's error (empty without a source)."""

    tensors: int
    total_bytes: int
    modules: tuple[ModuleError, ...]

    @property
    def worst(self) -> ModuleError | None:
        """The tensor of the largest relative error."""
        return max(self.modules, key=lambda module: module.relative_error, default=None)


def verify_files(folder: Path, source: Iterable[TensorRef] = ()) -> Verification:
    """Check a converted folder against its record and, where they are given, the source's tensors.

    Raises CheckpointError naming every tensor that is damaged, missing or nothing like the source's.
    """
    stored = StoredTensors(folder)
    try:
        load_scales(folder, load_config(folder))
        expected = load_record(folder)["crc32"]
        names = list(stored.infos)
        wrong = [name for name in names if expected.get(name) != f"{stored.crc(name):08x}"]
        wrong += [name for name in expected if name not in stored.infos]
        if wrong:
            raise CheckpointError(f"{folder}: not what was written: {', '.join(sorted(wrong))}; convert it again")
        modules = tuple(
            module_error(ref, partial(stored.dequantized, ref.name), stored.kind(ref.name)) for ref in source
        )
    finally:
        stored.close()
    check_errors(modules, folder)
    return Verification(len(names), sum(info.nbytes for info in stored.infos.values()), modules)


class StoredTensors:
    """The tensors of a checkpoint folder, read in rows, quantized ones dequantized."""

    def __init__(self, folder: Path) -> None:
        files = checkpoint_files(folder)
        headers = {path: read_header(path) for path in dict.fromkeys(files.values())}
        self.infos: dict[str, TensorInfo] = {name: headers[path][name] for name, path in files.items()}
        config = load_config(folder)
        self.schemes: Mapping[str, Scheme] = quantized_modules(config, self.infos)
        check_tensors(stored_tensors(config, self.schemes), {n: info.shape for n, info in self.infos.items()}, folder)
        self._open = {path: os.open(path, os.O_RDONLY) for path in headers}
        self._files = files
        for file in self._open.values():
            _bypass_cache(file)

    def crc(self, name: str) -> int:
        """Return the CRC-32 of a tensor's bytes."""
        info, value = self.infos[name], 0
        row_bytes = max(1, info.nbytes // max(1, info.shape[0]))
        step = max(1, _READ_BYTES // row_bytes)
        for start in range(0, info.shape[0], step):
            value = zlib.crc32(self._rows(name, start, start + step).data.cast("B"), value)
        return value

    def dequantized(self, name: str, start: int, stop: int) -> np.ndarray:
        """Return rows of a weight in float32."""
        path = name.removesuffix(".weight")
        scheme = self.schemes.get(path) if path != name else None
        if scheme is None:
            rows = as_mlx(self._rows(name, start, stop), self.infos[name].dtype)
            return np.array(rows.astype(mx.float32))
        parts = [f"{path}.{part}" for part in ("weight", "scales", "biases") if f"{path}.{part}" in self.infos]
        arrays = [as_mlx(self._rows(part, start, stop), self.infos[part].dtype) for part in parts]
        return dequantize(arrays, scheme)

    def kind(self, name: str) -> str:
        """Return how a tensor is stored: mode, bits and group size, or its dtype."""
        scheme = self.schemes.get(name.removesuffix(".weight"))
        return f"{scheme.mode} {scheme.bits}/{scheme.group_size}" if scheme else self.infos[name].dtype

    def close(self) -> None:
        """Close the files."""
        for file in self._open.values():
            os.close(file)
        self._open.clear()

    def _rows(self, name: str, start: int, stop: int) -> np.ndarray:
        return read_rows(self._open[self._files[name]], self.infos[name], start, stop)


def module_error(ref: TensorRef, stored: Callable[[int, int], np.ndarray], stored_as: str) -> ModuleError:
    """Compare a source's tensor with what `stored(start, stop)` gives for its rows in float32."""
    columns = ref.shape[1] if len(ref.shape) > 1 else 1
    step = max(1, _READ_VALUES // columns)
    difference = power = largest = 0.0
    for start in range(0, ref.rows, step):
        stop = min(start + step, ref.rows)
        source = as_mlx(ref.read(start, stop), ref.dtype).astype(mx.float32)
        off = mx.array(stored(start, stop)) - source
        difference += _scalar(mx.square(off).sum())
        power += _scalar(mx.square(source).sum())
        largest = max(largest, _scalar(mx.abs(off).max()))
    relative = (difference / power) ** 0.5 if power else float(difference > 0)
    return ModuleError(ref.name, stored_as, relative, largest)


def check_errors(modules: Iterable[ModuleError], where: Path | str) -> None:
    """Raise CheckpointError naming the tensors whose relative error is too large for a quantization."""
    lost = [f"{module.tensor} ({module.relative_error:.2f})" for module in modules if _is_too_far(module)]
    if lost:
        raise CheckpointError(f"{where}: too far from the source (relative error): {', '.join(lost)}")


def _scalar(value: mx.array) -> float:
    return float(np.array(value))


def _is_too_far(module: ModuleError) -> bool:
    return not module.relative_error < _MAX_RELATIVE_ERROR


def _bypass_cache(file: int) -> None:
    """Ask the system to read from the disk what it may still hold in memory; where it can't, it doesn't."""
    if hasattr(fcntl, "F_NOCACHE"):
        fcntl.fcntl(file, fcntl.F_NOCACHE, 1)
    elif hasattr(os, "posix_fadvise"):
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
