"""Hugging Face safetensors, plain or already quantized by MLX, as a source."""

import os
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ...checkpoint.loading import quantized_modules
from ...checkpoint.model_files import copy_files
from ...checkpoint.safetensors_files import TensorInfo, as_mlx, checkpoint_files, read_header, read_rows
from ...errors import CheckpointError
from ...files import printable
from ...library.hub import repository_of
from ...model.channel_scales import ChannelScales, load_scales
from ...model.config import ModelConfig, load_config
from ...model.parameters import check_tensors, expected_tensors, stored_tensors
from ...model.quantization import Scheme
from .source import FLOAT_DTYPES, TensorRef, dequantize, file_facts, main_dtype


class HFSource:
    """A folder of safetensors with config.json. Quantized modules are dequantized as they are read."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config: ModelConfig = load_config(folder)
        self.location = folder
        self.base_model = repository_of(folder)
        self.description = self.base_model or f"Hugging Face folder {printable(folder.resolve().name)}"
        self.extra_config: dict[str, Any] = {}
        self._scales = load_scales(folder, self.config)
        self._files = checkpoint_files(folder)
        headers = {path: read_header(path) for path in dict.fromkeys(self._files.values())}
        self._infos: dict[str, TensorInfo] = {name: headers[path][name] for name, path in self._files.items()}
        self._schemes: Mapping[str, Scheme] = quantized_modules(self.config, self._infos)
        expected = stored_tensors(self.config, self._schemes)
        check_tensors(expected, {name: info.shape for name, info in self._infos.items()}, folder)
        odd = [
            f"{name} ({info.dtype})"
            for name in expected
            if (info := self._infos[name]).dtype not in self._allowed(name)
        ]
        if odd:
            raise CheckpointError(f"{folder}: tensors of a dtype that is not supported: {', '.join(odd[:20])}")
        self._open = {path: os.open(path, os.O_RDONLY) for path in headers}
        self.dtype: str | None = main_dtype((info.dtype, info.shape) for info in self._infos.values())
        self.is_mlx_quantized = bool(self._schemes)
        self.notes: list[str] = []

    def _allowed(self, name: str) -> tuple[str, ...]:
        path, _, part = name.rpartition(".")
        if path not in self._schemes:
            return FLOAT_DTYPES
        if part == "weight":
            return ("U32",)
        return FLOAT_DTYPES if self._schemes[path].mode == "affine" else ("U8",)

    def tensors(self) -> Iterator[TensorRef]:
        """Yield the tensors in the model's order."""
        for name, shape in expected_tensors(self.config).items():
            path = name.removesuffix(".weight")
            if name.endswith(".weight") and path in self._schemes:
                yield self._quantized_ref(path, shape)
            else:
                info = self._infos[name]
                read = partial(self._read, name)
                yield TensorRef(name, shape, info.dtype, info.dtype, info.nbytes, read)

    def _read(self, name: str, start: int, stop: int) -> np.ndarray:
        return read_rows(self._open[self._files[name]], self._infos[name], start, stop)

    def _quantized_ref(self, path: str, shape: tuple[int, ...]) -> TensorRef:
        scheme = self._schemes[path]
        parts = [f"{path}.{part}" for part in ("weight", "scales", "biases") if f"{path}.{part}" in self._infos]

        def read(start: int, stop: int) -> np.ndarray:
            arrays = [as_mlx(self._read(part, start, stop), self._infos[part].dtype) for part in parts]
            return dequantize(arrays, scheme)

        nbytes = sum(self._infos[part].nbytes for part in parts)
        return TensorRef(f"{path}.weight", shape, "F32", f"{scheme.mode} {scheme.bits} bits", nbytes, read)

    def channel_scales(self) -> ChannelScales | None:
        """Return the scales in the folder's channel_scales.json."""
        return self._scales

    def fingerprint(self) -> dict[str, Any]:
        """Return names, sizes and times of the weight files and the config."""
        return {"files": [file_facts(path) for path in [self.folder / "config.json", *self._open]]}

    def save_side_files(self, folder: Path) -> None:
        """Copy tokenizer, template, generation config and license."""
        copy_files(self.folder, folder)

    def close(self) -> None:
        """Close the weight files."""
        for file in self._open.values():
            os.close(file)
        self._open.clear()
