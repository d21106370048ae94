"""A model of which only config.json is at hand, for dry runs: it reads as noise of the right size."""

from collections.abc import Iterator
from math import prod
from pathlib import Path

import numpy as np

from ...checkpoint.folder import load_config
from ...checkpoint.model_files import copy_files
from ...dtypes import RAW_FLOATS, STORED_DTYPES, STORED_NAMES
from ...files import printable
from ...library.hub import repository_of
from ...model.config import ModelConfig
from ...model.parameters import expected_tensors
from .source import Fingerprint, TensorRef, file_facts


class OutlineSource:
    """The tensors that a config describes, in its dtype, without their values."""

    def __init__(self, folder: Path) -> None:
        self.config: ModelConfig = load_config(folder)
        self.location = folder
        self.base_model = repository_of(folder)
        self.description = self.base_model or f"config.json of {printable(folder.resolve().name)}"
        named = self.config.dtype
        dtype = STORED_NAMES.get(named, "BF16") if isinstance(named, str) else "BF16"
        self.dtype: str | None = dtype
        self.is_mlx_quantized = False
        self.lost_scales: str | None = None
        self.notes: list[str] = []
        noise = np.random.default_rng(0).normal(0, 0.02, 1 << 20).astype(np.float32)
        self._stored = dtype
        self._noise = noise.view(np.uint16)[1::2] if dtype == "BF16" else noise.astype(RAW_FLOATS[dtype])

    def tensors(self) -> Iterator[TensorRef]:
        """Yield the tensors in the model's order."""
        for name, shape in expected_tensors(self.config).items():

            def read(start: int, stop: int, rest: tuple[int, ...] = shape[1:]) -> np.ndarray:
                return np.resize(self._noise, (stop - start, *rest))

            yield TensorRef(
                name, shape, self._stored, self._stored, prod(shape) * STORED_DTYPES[self._stored].nbytes, read
            )

    def channel_scales(self) -> None:
        """Return None: sizes don't depend on them."""

    def fingerprint(self) -> Fingerprint:
        """Return name, size and time of the config."""
        return {"files": [file_facts(self.location / "config.json")]}

    def save_side_files(self, folder: Path) -> None:
        """Copy what is there."""
        copy_files(self.location, folder)

    def close(self) -> None:
        """Do nothing: no file is open."""
