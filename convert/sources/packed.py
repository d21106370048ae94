"""Folders whose weights other programs have quantized: AWQ, GPTQ, compressed-tensors and FP8, read as float32."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import mlx.core as mx
import numpy as np

from ...checkpoint.folder import ModelFolder
from ...checkpoint.model_files import copy_files
from ...checkpoint.reader import CheckpointReader, StoredTensor
from ...checkpoint.recognition import foreign_quantization
from ...checkpoint.safetensors_files import as_mlx
from ...errors import CheckpointError
from ...files import printable
from ...json_types import JsonMapping
from ...library.hub import repository_of
from ...model.config import ModelConfig
from ...model.parameters import check_tensors, expected_tensors
from ...model.quantization import CONVERTIBLE
from .packed_layers import E4M3, GPTQFormat, awq_rows, block_scales, gptq_rows, int_rows, unpacked
from .source import FLOAT_DTYPES, Fingerprint, TensorRef, file_facts, main_dtype

_GPTQ_BITS = (2, 4, 8)


def quantization_of(folder: ModelFolder) -> JsonMapping | None:
    """Return what a folder says of its quantization by a method of CONVERTIBLE, None for other folders."""
    if not folder.has_weights or foreign_quantization({n: tensor.info for n, tensor in folder.found.items()}) is None:
        return None
    values = folder.json("config.json") or {}
    entry = values.get("quantization_config") or values.get("compression_config")
    if entry is None and (older := folder.json("quantize_config.json")):
        # AutoGPTQ before 0.5.
        entry = {"quant_method": "gptq", **older}
    return entry if isinstance(entry, Mapping) and entry.get("quant_method") in CONVERTIBLE else None


class PackedSource:
    """A folder of safetensors with matrices in the packed form of another program."""

    def __init__(self, folder: ModelFolder, entry: JsonMapping) -> None:
        self.folder = self.location = folder.path
        self._opened, self._entry, self._method = folder, entry, str(entry["quant_method"])
        self.base_model = repository_of(folder.path)
        self.description = self.base_model or f"Hugging Face folder {printable(folder.path.resolve().name)}"
        self.is_mlx_quantized = False
        self.lost_scales: str | None = None
        found = folder.found
        values = {name: value for name, value in (folder.json("config.json") or {}).items() if name not in _ENTRIES}
        self.config: ModelConfig = ModelConfig.from_dict(values, folder.note)
        self._tensors = {name: _readable(tensor) for name, tensor in found.items()}
        self._reader = CheckpointReader(self._tensors, {})
        self.dtype: str | None = (
            main_dtype((tensor.dtype, tensor.shape) for tensor in found.values()) or self._scale_dtype()
        )
        self._check()

    @property
    def notes(self) -> tuple[str, ...]:
        """What was decided where the folder's files contradict one another."""
        return self._opened.notes

    def tensors(self) -> Iterator[TensorRef]:
        """Yield the tensors in the model's order."""
        for name, shape in expected_tensors(self.config).items():
            path = name.removesuffix(".weight")
            parts = self._parts(path) if name.endswith(".weight") else {}
            if parts:
                nbytes = sum(tensor.nbytes for tensor in parts.values())
                group = self._group_size(shape, parts)
                yield TensorRef(name, shape, "F32", self._kind(path), nbytes, partial(self._read, path), group)
            else:
                tensor = self._tensors[name]
                yield TensorRef(name, shape, tensor.dtype, tensor.dtype, tensor.nbytes, partial(self._reader.raw, name))

    def channel_scales(self) -> None:
        """Return None: the channels are those that the model was trained with."""

    def fingerprint(self) -> Fingerprint:
        """Return names, sizes and times of the weight files and the config."""
        paths = dict.fromkeys(tensor.path for tensor in self._tensors.values())
        return {"files": [file_facts(path) for path in [self.folder / "config.json", *paths]]}

    def save_side_files(self, folder: Path) -> None:
        """Copy tokenizer, template, generation config and license."""
        copy_files(self.folder, folder)

    def close(self) -> None:
        """Do nothing: no file stays open."""

    def _parts(self, path: str) -> dict[str, StoredTensor]:
        """Return the tensors of a packed module by their part's name, none for one that isn't packed."""
        names = {part: f"{path}.{part}" for part in _PARTS}
        parts = {part: self._tensors[name] for part, name in names.items() if name in self._tensors}
        packed = parts.keys() & {"qweight", "weight_packed", "weight_scale", "weight_scale_inv"}
        return parts if packed else {}

    def _scale_dtype(self) -> str | None:
        scales = (tensor for name, tensor in self._tensors.items() if name.endswith(("scales", "weight_scale")))
        return next((tensor.dtype for tensor in scales if tensor.dtype in FLOAT_DTYPES), None)

    def _check(self) -> None:
        """Raise CheckpointError for missing or misshapen tensors, and for layouts that aren't known here."""
        version = str(self._entry.get("version", "gemm")).lower()
        if self._method == "awq" and (version != "gemm" or self._entry.get("bits", 4) != 4):
            raise CheckpointError(f"{self.folder}: AWQ weights are read in 4 bits and the layout GEMM, not {version!r}")
        if self._method == "gptq" and self._entry.get("bits") not in _GPTQ_BITS:
            bits = self._entry.get("bits")
            raise CheckpointError(f"{self.folder}: GPTQ weights are read in 2, 4 and 8 bits, not {bits!r}")
        expected, shapes = expected_tensors(self.config), {}
        for name in expected:
            path = name.removesuffix(".weight")
            parts = self._parts(path) if name.endswith(".weight") else {}
            if parts:
                shapes[name] = self._shape(path, parts)
            elif name in self._tensors:
                shapes[name] = self._tensors[name].shape
        check_tensors(expected, shapes, self.folder)

    def _shape(self, path: str, parts: Mapping[str, StoredTensor]) -> tuple[int, ...]:
        """Return the shape of a module's matrix; raises CheckpointError where a part of it is missing."""
        needed = {"awq": ("qweight", "scales"), "gptq": ("qweight", "qzeros", "scales")}.get(self._method, ())
        missing = [part for part in needed if part not in parts]
        if missing or (not needed and not parts.keys() & {"weight_scale", "weight_scale_inv"}):
            raise CheckpointError(f"{self.folder}: {path} lacks {', '.join(missing) or 'its scales'}")
        if self._method == "awq":
            return parts["scales"].shape[1], parts["qweight"].shape[0]
        if self._method == "gptq":
            return parts["scales"].shape[1], parts["qweight"].shape[0] * 32 // int(self._entry["bits"])
        if "weight_packed" in parts:
            rows, columns = self._whole(f"{path}.weight_shape").astype(int)
            return int(rows), int(columns)
        return parts["weight"].shape

    def _group_size(self, shape: tuple[int, ...], parts: Mapping[str, StoredTensor]) -> int | None:
        """Return how many weights of a row share a scale, None where a row has one, or inputs were reordered."""
        if "scales" in parts:
            groups = parts["scales"].shape[0]
        else:
            groups = (*(parts["weight_scale"].shape if "weight_scale" in parts else ()), 1, 1)[1]
        return shape[1] // groups if groups > 1 else None

    def _kind(self, path: str) -> str:
        """Return the name of a module's format, for reports."""
        if self._method in ("awq", "gptq"):
            return f"{self._method.upper()} {self._entry.get('bits', 4)} bits"
        if f"{path}.weight_packed" in self._tensors:
            return f"compressed-tensors {self._bits(path)} bits"
        return "INT8" if self._tensors[f"{path}.weight"].dtype == "I8" else "FP8"

    def _read(self, path: str, start: int, stop: int) -> np.ndarray:
        if self._method == "awq":
            zeros = self._columns(path, "qzeros", start, stop, 8)
            words, lead = self._columns(path, "qweight", start, stop, 8), start % 8
            assert words is not None, "the check has found it"
            first, last = start - lead, -(-stop // 8) * 8
            rows = awq_rows(words, zeros, self._floats(f"{path}.scales")[:, first:last])
            return rows[lead : lead + stop - start]
        if self._method == "gptq":
            return self._gptq(path, start, stop)
        if f"{path}.weight_packed" in self._tensors:
            return self._packed_ints(path, start, stop)
        return self._floats_or_bytes(path, start, stop)

    def _columns(self, path: str, part: str, start: int, stop: int, per_word: int) -> np.ndarray | None:
        """Return the words of outputs start:stop, which run across."""
        name = f"{path}.{part}"
        return self._whole(name)[:, start // per_word : -(-stop // per_word)] if name in self._tensors else None

    def _gptq(self, path: str, start: int, stop: int) -> np.ndarray:
        bits = int(self._entry["bits"])
        kind = GPTQFormat(bits, 0 if self._entry.get("checkpoint_format") == "gptq_v2" else 1)
        per_word = 32 // bits
        lead, first, last = start % per_word, start - start % per_word, -(-stop // per_word) * per_word
        zeros = self._columns(path, "qzeros", start, stop, per_word)
        assert zeros is not None, "the check has found it"
        groups = self._whole(f"{path}.g_idx").astype(np.int64) if f"{path}.g_idx" in self._tensors else None
        words, scales = self._whole(f"{path}.qweight")[:, first:last], self._floats(f"{path}.scales")[:, first:last]
        return gptq_rows(words, zeros, scales, groups, kind)[lead : lead + stop - start]

    def _packed_ints(self, path: str, start: int, stop: int) -> np.ndarray:
        bits, columns = self._bits(path), int(self._whole(f"{path}.weight_shape")[1])
        half = 2 ** (bits - 1)
        codes = unpacked(self._reader.raw(f"{path}.weight_packed", start, stop), bits, 1)[:, :columns].astype(np.int16)
        zeros = None
        if f"{path}.weight_zero_point" in self._tensors:
            words = self._whole(f"{path}.weight_zero_point")
            zeros = unpacked(words, bits, 0)[start:stop].astype(np.int16) - half
        groups = (
            self._whole(f"{path}.weight_g_idx").astype(np.int64) if f"{path}.weight_g_idx" in self._tensors else None
        )
        return int_rows(codes - half, self._rows(f"{path}.weight_scale", start, stop), zeros, groups)

    def _floats_or_bytes(self, path: str, start: int, stop: int) -> np.ndarray:
        """Return rows of FP8 or INT8 weights."""
        raw = self._reader.raw(f"{path}.weight", start, stop)
        if f"{path}.weight_scale_inv" in self._tensors or self._block():
            name = f"{path}.weight_scale_inv" if f"{path}.weight_scale_inv" in self._tensors else f"{path}.weight_scale"
            steps = block_scales(self._floats(name), self._block() or (128, 128), start, stop, raw.shape[1])
            return E4M3[raw] * steps
        scales = self._rows(f"{path}.weight_scale", start, stop)
        if self._stored(f"{path}.weight") == "I8":
            name = f"{path}.weight_zero_point"
            zeros = self._rows(name, start, stop) if name in self._tensors else None
            return int_rows(raw.view(np.int8), scales, zeros, None)
        return int_rows(E4M3[raw], scales, None, None)

    def _stored(self, name: str) -> str:
        return self._opened.found[name].dtype

    def _block(self) -> tuple[int, int] | None:
        size = self._entry.get("weight_block_size")
        return (int(size[0]), int(size[1])) if isinstance(size, list) and len(size) == 2 else None

    def _bits(self, path: str) -> int:
        """Return the bits of a packed module: as many as fill its words."""
        columns, words = int(self._whole(f"{path}.weight_shape")[1]), self._tensors[f"{path}.weight_packed"].shape[1]
        for bits in (2, 4, 8):
            if -(-columns * bits // 32) == words:
                return bits
        raise CheckpointError(f"{self.folder}: {path} isn't packed in 2, 4 or 8 bits")

    def _whole(self, name: str) -> np.ndarray:
        tensor = self._tensors[name]
        return self._reader.raw(name, 0, tensor.shape[0] if tensor.shape else 1)

    def _floats(self, name: str) -> np.ndarray:
        return np.array(as_mlx(self._whole(name), self._tensors[name].dtype).astype(mx.float32))

    def _rows(self, name: str, start: int, stop: int) -> np.ndarray:
        """Return the rows of scales that stand for rows of weights: all where there is one for all."""
        values = self._floats(name)
        return values[start:stop] if values.ndim and values.shape[0] > 1 else values.reshape(1, -1)


_ENTRIES = ("quantization_config", "compression_config")
_PARTS = (
    "qweight",
    "qzeros",
    "scales",
    "g_idx",
    "weight_packed",
    "weight_shape",
    "weight_zero_point",
    "weight_g_idx",
    "weight_scale",
    "weight_scale_inv",
    "weight",
)
# Read as bytes of the same width; numpy has no 8-bit floats.
_AS_BYTES = {"F8_E4M3": "U8", "I8": "U8"}


def _readable(tensor: StoredTensor) -> StoredTensor:
    info = tensor.info
    return replace(tensor, info=replace(info, dtype=_AS_BYTES.get(info.dtype, info.dtype)))
