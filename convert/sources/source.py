"""Tensors of a source that are not read yet, and what every source gives."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Protocol

import numpy as np

from ...errors import CheckpointError
from ...model.channel_scales import ChannelScales
from ...model.config import ModelConfig

FLOAT_DTYPES = ("F32", "F16", "BF16")
# Names of damaged tensors that an error shows.
_SHOWN = 20


# Name, size and time of a file.
FileFacts = list[str | int]
# What changes when a source's files do.
Fingerprint = dict[str, list[FileFacts]]


@dataclass(frozen=True)
class TensorRef:
    """A tensor under its Hugging Face name and layout. `read(start, stop)` gives those rows as numpy.

    `dtype` is that of the values as read: F32, F16, or BF16, which numpy holds as uint16. `stored` names the
    source's own format for reports, `group_size` says how many weights of a row share a scale in it. Reading needs no
    more memory than a small multiple of those rows.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    stored: str
    nbytes: int
    read: Callable[[int, int], np.ndarray]
    group_size: int | None = None

    @property
    def rows(self) -> int:
        """Number of rows; of a vector its length."""
        return self.shape[0]


class Source(Protocol):
    """Weights with their config and side files, wherever they come from.

    `location` is the file or folder; `base_model` the Hub id, where the weights came from there; `dtype` the
    safetensors name of the dtype that most floating-point weights are stored in, None where they are all quantized.
    `is_mlx_quantized`: the weights lie on MLX's grids. `lost_scales`: the digest of channel scales that the weights
    have, but that aren't there any more.
    """

    config: ModelConfig
    location: Path
    description: str
    base_model: str | None
    dtype: str | None
    is_mlx_quantized: bool
    lost_scales: str | None

    @property
    def notes(self) -> Sequence[str]:
        """What the user should know about the source."""

    def tensors(self) -> Iterator[TensorRef]:
        """Yield every tensor that the model needs, in the model's order."""

    def channel_scales(self) -> ChannelScales | None:
        """Return the scales that the tensors' channels have, None for those that the model was trained with."""

    def fingerprint(self) -> Fingerprint:
        """Return what changes when the source's files do."""

    def save_side_files(self, folder: Path) -> None:
        """Write tokenizer, generation config and license files into `folder`."""

    def close(self) -> None:
        """Close the source's files."""


def is_finite(raw: np.ndarray, dtype: str) -> bool:
    """Return whether the rows hold neither NaN nor infinity. Works on the exponent bits, in one pass."""
    bits, exponent = {
        "F32": (np.uint32, 0x7F800000),
        "F16": (np.uint16, 0x7C00),
        "BF16": (np.uint16, 0x7F80),
    }[dtype]
    sign_free = raw.view(bits) & np.array(~(1 << (8 * np.dtype(bits).itemsize - 1)), dtype=np.int64).astype(bits)
    return not raw.size or int(sign_free.max()) < exponent


def read_finite(ref: TensorRef, start: int, stop: int, *, every: int = 1) -> np.ndarray:
    """Read rows, of a matrix each `every`-th column; raises CheckpointError unless they are finite."""
    raw = ref.read(start, stop)
    raw = raw[:, ::every] if every > 1 else raw
    if not is_finite(raw, ref.dtype):
        raise damage([ref.name])
    return raw


def main_dtype(tensors: Iterable[tuple[str, tuple[int, ...]]]) -> str | None:
    """Return the floating-point dtype of most values in matrices, given as (dtype, shape); None if there is none."""
    sizes: dict[str, int] = {}
    for dtype, shape in tensors:
        if dtype in FLOAT_DTYPES and len(shape) > 1:
            sizes[dtype] = sizes.get(dtype, 0) + prod(shape)
    return max(sizes, key=lambda dtype: sizes[dtype], default=None)


def damage(names: Sequence[str]) -> CheckpointError:
    """Return the error that tells which tensors aren't finite."""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    verb = "hold" if len(names) > 1 else "holds"
    return CheckpointError(f"{', '.join(names[:_SHOWN])}{more} {verb} NaN or infinity: the source is damaged")


def file_facts(path: Path) -> FileFacts:
    """Return name, size and time of a file, for fingerprints."""
    stat = path.stat()
    return [path.name, stat.st_size, stat.st_mtime_ns]
