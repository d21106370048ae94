"""Re-reads a converted folder: every tensor against its checksum, every module against the source's weights."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import mlx.core as mx
import numpy as np

from ...checkpoint.folder import ModelFolder
from ...checkpoint.safetensors_files import as_mlx
from ...errors import CheckpointError
from ...model.channel_scales import load_scales, lost_scales
from ..sources.source import TensorRef
from .record import load_record

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
    opened = ModelFolder(folder)
    if not lost_scales(folder, opened.config):
        load_scales(folder, opened.config)
    expected = load_record(folder)["crc32"]
    reader = opened.reader()
    reader.read_past_cache()
    wrong = [name for name in opened.tensors if expected.get(name) != f"{reader.crc(name):08x}"]
    wrong += [name for name in expected if name not in opened.tensors]
    if wrong:
        raise CheckpointError(f"{folder}: not what was written: {', '.join(sorted(wrong))}; convert it again")
    modules = tuple(module_error(ref, partial(reader.dequantized, ref.name), reader.kind(ref.name)) for ref in source)
    check_errors(modules, folder)
    return Verification(len(opened.tensors), sum(tensor.nbytes for tensor in opened.tensors.values()), modules)


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
