"""A source whose channels are rescaled as it is read (channel equalization)."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cached_property, partial

import numpy as np

from ...dtypes import RAW_FLOATS
from ...model.channel_scales import ChannelScales, Factors, LayerScales, change, composed, factors_of, head_factors
from ..sources.source import Source, TensorRef, read_finite
from ..sources.wrapped import WrappedSource
from .channel_magnitudes import normed_rms, row_energies
from .dtypes import as_float32, as_stored
from .equalization import norm_scales, scales_from_weights

# Values of a matrix that are measured at a time, and that are scaled at a time: the latter stay in the caches.
_BLOCK_VALUES = 8_000_000
_CACHED_VALUES = 200_000
# Columns of a matrix that its rows' energies are estimated on, taken evenly.
_SAMPLED_COLUMNS = 1024
# Rows of the embedding that the RMS of its columns is estimated on, taken evenly.
_SAMPLED_ROWS = 4096


class EqualizedSource(WrappedSource):
    """Wraps a source. `layer_scales` gives a layer's scales by its number, `head_scales` those of an untied head.

    `dtype` is what the weights will be stored in: a tensor that has it already keeps it, others come in float32.
    `total` gives the resulting channel scales where they are known without multiplying.
    """

    def __init__(
        self,
        source: Source,
        dtype: str,
        layer_scales: Callable[[int], LayerScales],
        head_scales: Callable[[], np.ndarray],
        total: Callable[[], ChannelScales | None] | None = None,
    ) -> None:
        super().__init__(source)
        self.stored_dtype, self.layer_scales, self.head_scales = dtype, layer_scales, head_scales
        self._total = total or self._composed

    def channel_scales(self) -> ChannelScales | None:
        """Return the resulting scales."""
        return self._total()

    def tensors(self) -> Iterator[TensorRef]:
        """Yield the wrapped source's tensors."""
        for ref in self.source.tensors():
            factors = self._factors(ref.name)
            dtype = ref.dtype if ref.dtype == self.stored_dtype else "F32"
            yield replace(ref, dtype=dtype, read=partial(_read_scaled, ref, factors, dtype)) if factors else ref

    def _composed(self) -> ChannelScales | None:
        """Return the scales of the wrapped source's channels and these together; takes as long as finding them."""
        layers = tuple(map(self.layer_scales, range(self.config.num_hidden_layers)))
        head = None if self.config.tie_word_embeddings else self.head_scales()
        return composed(self.source.channel_scales(), ChannelScales(layers, head))

    def _factors(self, name: str) -> Callable[[], Factors] | None:
        """Return what gives a tensor's factors, None where it has none."""
        if name.startswith("model.layers."):
            _, _, layer, rest = name.split(".", 3)
            return lambda: factors_of(rest, self.layer_scales(int(layer)), self.config)
        if self.config.tie_word_embeddings or name == "model.embed_tokens.weight":
            return None
        return lambda: head_factors(name, self.head_scales())


def in_channels(source: Source, dtype: str, scales: ChannelScales | None) -> Source:
    """Return the source with these channel scales, None: those that the model was trained with; `dtype` as above."""
    needed = change(source.channel_scales(), scales)
    if needed is None:
        return source
    head = needed.head if needed.head is not None else np.ones(source.config.hidden_size, np.float32)
    return EqualizedSource(source, dtype, needed.layers.__getitem__, lambda: head, lambda: scales)


def _read_scaled(ref: TensorRef, factors: Callable[[], Factors], dtype: str, start: int, stop: int) -> np.ndarray:
    found, raw = factors(), ref.read(start, stop)
    scaled = np.empty(raw.shape, RAW_FLOATS[dtype])
    step = max(1, _CACHED_VALUES // (raw.shape[1] if raw.ndim > 1 else 1))
    for at in range(0, len(raw), step):
        part = found.applied(as_float32(raw[at : at + step], ref.dtype), start + at)
        scaled[at : at + step] = as_stored(part, dtype)
    return scaled


class WeightScales:
    """A source's channel scales as its weights suggest them; those of a layer are computed on first use."""

    def __init__(self, source: Source, norm_dtype: str) -> None:
        self.norm_dtype = norm_dtype
        self._refs = {ref.name: ref for ref in source.tensors()}
        self._layers: dict[int, LayerScales] = {}

    @cached_property
    def _channels(self) -> np.ndarray:
        """The RMS of the residual stream's channels (D,), that of the embedding's columns."""
        ref = self._refs["model.embed_tokens.weight"]
        sampled = range(0, ref.rows, max(1, ref.rows // _SAMPLED_ROWS))
        squares = np.zeros(ref.shape[1], np.float32)
        for at in sampled:
            squares += np.square(_read_float32(ref, at, at + 1)[0])
        return np.sqrt(squares / np.float32(len(sampled)))

    def layer(self, index: int) -> LayerScales:
        """Return the scales of layer `index`."""
        if index not in self._layers:
            prefix = f"model.layers.{index}"
            attention = self._tensor(f"{prefix}.input_layernorm.weight")
            mlp = self._tensor(f"{prefix}.post_attention_layernorm.weight")
            self._layers[index] = scales_from_weights(
                prefix, attention, mlp, self._channels, self._energies, self.norm_dtype
            )
        return self._layers[index]

    def head(self) -> np.ndarray:
        """Return the scales of an untied head's columns (D,)."""
        norm = self._tensor("model.norm.weight")
        return norm_scales(norm, normed_rms(norm, self._channels), self.norm_dtype)

    def _tensor(self, name: str) -> np.ndarray:
        ref = self._refs[name]
        return _read_float32(ref, 0, ref.rows)

    def _energies(self, name: str, rms: np.ndarray) -> np.ndarray:
        ref = self._refs[name]
        step = max(1, _BLOCK_VALUES // ref.shape[1])
        every = max(1, ref.shape[1] // _SAMPLED_COLUMNS)
        blocks = (_read_float32(ref, start, min(start + step, ref.rows), every) for start in range(0, ref.rows, step))
        energies = [row_energies(block, rms[::every]) for block in blocks]
        return np.concatenate(energies) * np.float32(every)


def _read_float32(ref: TensorRef, start: int, stop: int, every: int = 1) -> np.ndarray:
    """Return rows in float32, of a matrix each `every`-th column; raises CheckpointError unless they are finite."""
    return as_float32(read_finite(ref, start, stop, every=every), ref.dtype)
