"""Tensors of a file that torch.save wrote, without torch and without running what the file says.

Such a file is a zip of a pickle and of the tensors' bytes, uncompressed. The pickle is read by an unpickler that knows
the few names that a state dict needs and refuses every other. Source of the format: PyTorch `torch/serialization.py`,
`torch/_utils.py` (_rebuild_tensor_v2) and PKWARE's APPNOTE.TXT, 4.3.7 (local file header).
"""

import io
import os
import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from ..dtypes import STORED_DTYPES
from ..errors import CheckpointError
from .safetensors_files import TensorInfo, read_rows

_FLOATS = {"HalfStorage": "F16", "BFloat16Storage": "BF16", "FloatStorage": "F32"}
# Booleans are bytes of 0 or 1.
_BUFFERS = {"LongStorage": "I64", "BoolStorage": "U8"}
# A state dict of a thousand tensors takes 150 KB.
_MAX_PICKLE_BYTES = 16_000_000
_LOCAL_HEADER = struct.Struct("<4s22xHH")


class _Refused(pickle.UnpicklingError):
    """The pickle asks for something that a state dict doesn't need."""


@dataclass(frozen=True)
class _StorageType:
    dtype: str


@dataclass(frozen=True)
class _Storage:
    dtype: str
    key: str
    numel: int


@dataclass(frozen=True)
class _Tensor:
    storage: _Storage
    offset: int
    shape: tuple[int, ...]


class TorchFile:
    """The tensors of one file by name. Raises CheckpointError if it is damaged or holds anything else."""

    def __init__(self, path: Path, *, buffers: bool = False) -> None:
        """With `buffers`, tensors of int64 and bool are read beside the floating-point ones."""
        self.path = path
        self._storages = _FLOATS | (_BUFFERS if buffers else {})
        try:
            self._file = os.open(path, os.O_RDONLY)
        except OSError as error:
            raise CheckpointError(f"{path} can't be read: {error.strerror}") from None
        try:
            self.infos: Mapping[str, TensorInfo] = self._read_infos()
        except BaseException:
            self.close()
            raise

    def read(self, name: str, start: int, stop: int) -> np.ndarray:
        """Return rows start:stop of a tensor, bfloat16 as uint16."""
        return read_rows(self._file, self.infos[name], start, stop)

    def close(self) -> None:
        """Close the file."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _read_infos(self) -> dict[str, TensorInfo]:
        try:
            with zipfile.ZipFile(self.path) as archive:
                return self._infos_of(archive)
        except zipfile.BadZipFile:
            raise CheckpointError(
                f"{self.path} is cut short, damaged, or in torch's old format: download it again, or load it with "
                "torch and save the state dict again"
            ) from None

    def _infos_of(self, archive: zipfile.ZipFile) -> dict[str, TensorInfo]:
        entries = {entry.filename: entry for entry in archive.infolist()}
        if len(entries) < len(archive.infolist()):
            self._fail("a name stands in the archive twice")
        main = [name for name in entries if name.endswith("/data.pkl")]
        if len(main) != 1:
            self._fail("it has no data.pkl, so torch.save did not write it")
        folder = main[0].removesuffix("data.pkl")
        order = entries.get(f"{folder}byteorder")
        if order and archive.read(order) != b"little":
            self._fail("its values are big-endian")
        if entries[main[0]].file_size > _MAX_PICKLE_BYTES:
            self._fail(f"data.pkl of {entries[main[0]].file_size} bytes is not a state dict")
        tensors = _unpickle(archive.read(main[0]), self.path, self._storages)
        return {name: self._info(name, tensor, entries, folder) for name, tensor in tensors.items()}

    def _info(self, name: str, tensor: _Tensor, entries: Mapping[str, zipfile.ZipInfo], folder: str) -> TensorInfo:
        storage = tensor.storage
        entry, size = entries.get(f"{folder}data/{storage.key}"), STORED_DTYPES[storage.dtype].nbytes
        if entry is None:
            self._fail(f"the data of {name} is missing")
        if entry.compress_type != zipfile.ZIP_STORED or entry.file_size != storage.numel * size:
            self._fail(f"{name} has {entry.file_size} bytes of data, and {storage.numel * size} uncompressed are due")
        nbytes = prod(tensor.shape) * size
        if tensor.offset * size + nbytes > entry.file_size:
            self._fail(f"{name} of shape {list(tensor.shape)} reaches beyond its data")
        begin = _data_start(self._file, entry)
        if begin is None or begin + entry.file_size > os.fstat(self._file).st_size:
            self._fail(f"the data of {name} isn't where the archive says")
        return TensorInfo(storage.dtype, tensor.shape, begin + tensor.offset * size, nbytes)

    def _fail(self, what: str) -> NoReturn:
        raise CheckpointError(f"{self.path} can't be read: {what}")


def _data_start(file: int, entry: zipfile.ZipInfo) -> int | None:
    """Return where an entry's bytes begin; its local header can be longer than the directory says."""
    raw = os.pread(file, _LOCAL_HEADER.size, entry.header_offset)
    if len(raw) < _LOCAL_HEADER.size:
        return None
    mark, name_length, extra_length = _LOCAL_HEADER.unpack(raw)
    return entry.header_offset + _LOCAL_HEADER.size + name_length + extra_length if mark == b"PK\3\4" else None


def _unpickle(data: bytes, path: Path, storages: Mapping[str, str]) -> dict[str, _Tensor]:
    try:
        value = _StateDictUnpickler(data, storages).load()
    except _Refused as error:
        raise CheckpointError(
            f"{path} is refused: its pickle asks for {error}, which a state dict doesn't need and which could run "
            "code; nothing of it was run"
        ) from None
    except (
        pickle.UnpicklingError,
        EOFError,
        ValueError,
        TypeError,
        LookupError,
        AttributeError,
        OverflowError,
    ) as error:
        raise CheckpointError(f"{path} can't be read: data.pkl is damaged ({_one_line(error)})") from None
    if not isinstance(value, dict) or not all(
        isinstance(name, str) and name.isprintable() and isinstance(tensor, _Tensor) for name, tensor in value.items()
    ):
        raise CheckpointError(f"{path} is not a state dict: it must hold tensors by name and nothing else")
    return dict(value)


def _one_line(error: Exception) -> str:
    text = str(error)
    return text if text.isprintable() else repr(text)


class _StateDictUnpickler(pickle.Unpickler):
    """Builds descriptions of tensors. Every global comes from `find_class`, which returns none of torch's own."""

    def __init__(self, data: bytes, storages: Mapping[str, str]) -> None:
        super().__init__(io.BytesIO(data))
        self._storages = storages

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _rebuild
        if module == "torch" and name in self._storages:
            return _StorageType(self._storages[name])
        raise _Refused(f"{module}.{name}" if f"{module}{name}".isprintable() else repr(f"{module}.{name}"))

    def persistent_load(self, pid: Any) -> _Storage:
        match pid:
            case ("storage", _StorageType(dtype), str(key), str(), int(numel)) if numel >= 0:
                return _Storage(dtype, key, numel)
        raise pickle.UnpicklingError(f"an unknown reference: {str(pid)[:100]!r}")


def _rebuild(storage: Any, offset: Any, shape: Any, stride: Any, *_: Any) -> _Tensor:
    """Describe a tensor whose rows lie one after another; raises UnpicklingError for any other."""
    valid = isinstance(storage, _Storage) and isinstance(shape, tuple) and isinstance(stride, tuple)
    if not valid or not all(type(n) is int and n >= 0 for n in (offset, *shape, *stride)):
        raise pickle.UnpicklingError("a tensor's description is damaged")
    expected = tuple(prod(shape[axis + 1 :]) for axis in range(len(shape)))
    lies_in_order = len(stride) == len(shape) and all(
        have == due for have, due, length in zip(stride, expected, shape, strict=True) if length > 1
    )
    if not lies_in_order:
        raise pickle.UnpicklingError(f"a tensor of shape {list(shape)} isn't contiguous: strides {list(stride)}")
    return _Tensor(storage, offset, shape)
