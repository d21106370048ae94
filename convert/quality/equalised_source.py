"""A source whose layers come equalised; it reads like the one it wraps."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np

from ..tensors import Source, TensorRef
from .equalise import Factors, LayerScales, factors_of, norm_scales, scales_from_weights
from .importance import channel_sizes, normed_sizes, row_energies
from .stored import STORED_AS, as_float32, as_stored

# Values of a matrix that are measured at a time, and that are scaled at a time: the latter stay in the caches.
_BLOCK_VALUES = 16_000_000
_CACHED_VALUES = 200_000
# Columns of a matrix that its rows' energies are estimated on, taken evenly.
_SAMPLED_COLUMNS = 1024
# Rows of the embedding that the sizes of its columns are estimated on, taken evenly.
_SAMPLED_ROWS = 4096


class EqualisedSource:
    """Wraps a source. `layer_scales` gives a layer's scales by its number, `head_scales` those of an untied head.

    `dtype` is what the weights will be stored in: a tensor that has it already keeps it, others come in float32.
    """

    def __init__(
        self,
        source: Source,
        dtype: str,
        layer_scales: Callable[[int], LayerScales],
        head_scales: Callable[[], np.ndarray],
    ) -> None:
        self.source, self.dtype, self.layer_scales, self.head_scales = source, dtype, layer_scales, head_scales
        self.config = source.config
        self.location: Path = source.location
        self.description: str = source.description
        self.base_model: str | None = source.base_model
        self.extra_config: dict[str, Any] = source.extra_config

    def tensors(self) -> Iterator[TensorRef]:
        """Yield the wrapped source's tensors."""
        for ref in self.source.tensors():
            factors = self._factors(ref.name)
            dtype = ref.dtype if ref.dtype == self.dtype else "F32"
            yield replace(ref, dtype=dtype, read=partial(_read_scaled, ref, factors, dtype)) if factors else ref

    def fingerprint(self) -> dict[str, Any]:
        """Return the wrapped source's."""
        return self.source.fingerprint()

    def save_side_files(self, folder: Path) -> None:
        """Have the wrapped source write its files."""
        self.source.save_side_files(folder)

    def close(self) -> None:
        """Close the wrapped source."""
        self.source.close()

    def _factors(self, name: str) -> Callable[[], Factors] | None:
        """Return what gives a tensor's factors, None where it has none."""
        if name.startswith("model.layers."):
            _, _, layer, rest = name.split(".", 3)
            return lambda: factors_of(rest, self.layer_scales(int(layer)), self.config)
        if self.config.tie_word_embeddings:
            return None
        if name == "model.norm.weight":
            return lambda: Factors(rows=1 / self.head_scales())
        return (lambda: Factors(columns=self.head_scales())) if name == "lm_head.weight" else None


def _read_scaled(ref: TensorRef, factors: Callable[[], Factors], dtype: str, start: int, stop: int) -> np.ndarray:
    found, raw = factors(), ref.read(start, stop)
    scaled = np.empty(raw.shape, STORED_AS[dtype])
    step = max(1, _CACHED_VALUES // (raw.shape[1] if raw.ndim > 1 else 1))
    for at in range(0, len(raw), step):
        part = found.applied(as_float32(raw[at : at + step], ref.dtype), start + at)
        scaled[at : at + step] = as_stored(part, dtype)
    return scaled


class WeightScales:
    """A source's scales as its weights suggest them; a layer's are kept until another's are asked for."""

    def __init__(self, source: Source, norm_dtype: str) -> None:
        self.norm_dtype = norm_dtype
        self._refs = {ref.name: ref for ref in source.tensors()}
        self._layer: tuple[int, LayerScales] | None = None

    @cached_property
    def _channels(self) -> np.ndarray:
        """The sizes of the residual stream's channels (D,)."""
        ref = self._refs["model.embed_tokens.weight"]
        every = max(1, ref.rows // _SAMPLED_ROWS)
        rows = np.concatenate([ref.read(at, at + 1) for at in range(0, ref.rows, every)])
        return channel_sizes(as_float32(rows, ref.dtype))

    def layer(self, index: int) -> LayerScales:
        """Return the scales of layer `index`."""
        if self._layer is None or self._layer[0] != index:
            prefix = f"model.layers.{index}"
            attention = self._whole(f"{prefix}.input_layernorm.weight")
            mlp = self._whole(f"{prefix}.post_attention_layernorm.weight")
            scales = scales_from_weights(prefix, attention, mlp, self._channels, self._energies, self.norm_dtype)
            self._layer = (index, scales)
        return self._layer[1]

    def head(self) -> np.ndarray:
        """Return the scales of an untied head's columns (D,)."""
        norm = self._whole("model.norm.weight")
        return norm_scales(norm, normed_sizes(norm, self._channels), self.norm_dtype)

    def _whole(self, name: str) -> np.ndarray:
        ref = self._refs[name]
        return as_float32(ref.read(0, ref.rows), ref.dtype)

    def _energies(self, name: str, sizes: np.ndarray) -> np.ndarray:
        ref = self._refs[name]
        step = max(1, _BLOCK_VALUES // ref.shape[1])
        every = max(1, ref.shape[1] // _SAMPLED_COLUMNS)
        blocks = (ref.read(start, min(start + step, ref.rows))[:, ::every] for start in range(0, ref.rows, step))
        energies = [row_energies(as_float32(block, ref.dtype), sizes[::every]) for block in blocks]
        return np.concatenate(energies) * np.float32(every)
