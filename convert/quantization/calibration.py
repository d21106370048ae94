"""The calibration of a whole model, one layer in memory at a time, as the conversion requests its tensors."""

import zlib
from collections.abc import Sequence
from functools import partial
from threading import RLock

import mlx.core as mx
import numpy as np

from ...dtypes import MLX_FLOATS
from ...errors import ConversionError
from ...model.channel_scales import LayerScales
from ...model.quantization import Scheme
from ...model.transformer import Rope
from ..phases import Phase, unseen
from ..plan import Plan
from ..sources.source import Source
from .activations import Activations, channel_rms, mapped, moments, through
from .bit_packing import pack_codes
from .divergence import MODULES
from .equalization import norm_scales
from .gptq import Rounded, compensated, inverse_factor
from .layer_calibration import CalibrationSettings, LayerCalibration, LayerResult, round_to_nearest
from .layer_reader import LayerReader
from .quantizer import Packed, RoundToNearest

_BATCH_TOKENS = 1024


class Calibration:
    """Gives scales and rounded matrices of a source; the quantizer of a calibrated conversion.

    Layers are calibrated in order when they are first requested. Scales of all layers are kept, codes of the last
    two: a conversion reads a block ahead of the one it quantizes.
    """

    def __init__(
        self,
        source: Source,
        plan: Plan,
        windows: Sequence[Sequence[int]],
        settings: CalibrationSettings | None = None,
        phase: Phase = unseen,
    ) -> None:
        # The text decides the result: a run on another text must not resume from this one's files.
        digest = zlib.crc32(np.array([token for window in windows for token in window], np.int64).tobytes())
        self.name = f"calibrated on {len(windows)} windows of {len(windows[0])} tokens ({digest:08x})"
        self.plan, self.config, self.settings = plan, source.config, settings or CalibrationSettings()
        self.dtype = MLX_FLOATS[plan.dtype]
        self._reader = LayerReader(source)
        self._rope = Rope(source.config)
        self._layers = LayerCalibration(plan.dtype, self.settings)
        self._tokens = batches_of(windows)
        self._exact: Activations = []
        self._quantized: Activations = []
        self._scales: list[LayerScales] = []
        self._head: np.ndarray | None = None
        self._results: dict[str, dict[str, Rounded]] = {}
        self._lock = RLock()
        self._nearest = RoundToNearest()
        self._phase = phase

    def layer_scales(self, index: int) -> LayerScales:
        """Return the scales of layer `index`, once it and those before it are calibrated."""
        with self._lock:
            self._until(index)
            return self._scales[index]

    def head_scales(self) -> np.ndarray:
        """Return the scales (D,) of an untied head, once all layers and it are calibrated."""
        with self._lock:
            if self._head is None:
                self._calibrate_head()
            assert self._head is not None, "calibrating the head gives its scales"
            return self._head

    def __call__(self, tensor: str, start: int, rows: mx.array, scheme: Scheme) -> Packed:
        """Return packed weight, scales and biases of rows of a calibrated matrix; `rows` are their values."""
        found = self.rounded(tensor) if scheme.mode == "affine" else None
        if found is None:
            return self._nearest(tensor, start, rows, scheme)
        part = slice(start, start + rows.shape[0])
        grid = (found.grid.scales[part], found.grid.biases[part])
        return (mx.array(pack_codes(found.codes[part], scheme.bits)), *(values.astype(self.dtype) for values in grid))

    def rounded(self, path: str) -> Rounded | None:
        """Return the rounded matrix of a module, None for one that isn't calibrated (an untied embedding)."""
        with self._lock:
            owner = ".".join(path.split(".")[:3]) if path.startswith("model.layers.") else path
            if path == "lm_head":
                self.head_scales()
            elif owner != path:
                self._until(int(owner.split(".")[2]))
            else:
                self._begin()
            return self._results.get(owner, {}).get(path)

    def _begin(self) -> None:
        """Embed the text, exactly and with the quantized embedding."""
        if self._exact:
            return
        table = self._reader.tensor("model.embed_tokens.weight")
        self._exact = [table[tokens] for tokens in self._tokens]
        mx.eval(self._exact)
        path, scheme = "model.embed_tokens", self.plan.schemes.get("model.embed_tokens")
        if scheme is None:
            table = table.astype(self.dtype).astype(mx.float32)
        elif scheme.mode != "affine" or not self.config.tie_word_embeddings:
            table = round_to_nearest(table, scheme, self.dtype)
        else:
            hessian = moments(self._final(self._exact))
            hessian += self.settings.table * np.diag(hessian).mean() * np.eye(len(hessian), dtype=np.float32)
            factor = inverse_factor(hessian, self.settings.damping)
            rounded = compensated(table, factor, scheme, self.dtype, partial(self._phase, "calibrating the embedding"))
            self._results[path] = {path: rounded}
            table = rounded.dequantized()
        self._quantized = [table[tokens] for tokens in self._tokens]
        mx.eval(self._quantized)

    def _final(self, activations: Activations) -> Activations:
        """Return the exact normed hidden states, the head's inputs; reads every layer once."""
        layers = self.config.num_hidden_layers
        for index in range(layers):
            self._phase("reading the text", index, layers)
            activations = through(self._reader.block(index), activations, self._rope)
        self._phase("reading the text", layers, layers)
        return self._normed(activations)

    def _normed(self, activations: Activations) -> Activations:
        norm = self._reader.tensor("model.norm.weight")
        return mapped(lambda x: mx.fast.rms_norm(x, norm, self.config.rms_norm_eps), activations)

    def _until(self, index: int) -> None:
        """Calibrate the layers up to `index` that aren't yet."""
        self._begin()
        while len(self._scales) <= index:
            at = len(self._scales)
            matrices = len(MODULES)
            told = partial(self._tell_layers, at * matrices, self.config.num_hidden_layers * matrices)
            told(0)
            prefix = f"model.layers.{at}."
            schemes = {
                path.removeprefix(prefix): scheme
                for path, scheme in self.plan.schemes.items()
                if path.startswith(prefix)
            }
            block = self._reader.block(at)
            result = self._layers.run(block, self._rope, schemes, self._exact, self._quantized, told)
            self._keep(at, result)

    def _tell_layers(self, before: int, total: int, done: int) -> None:
        self._phase("calibrating matrices", before + done, total)

    def _keep(self, index: int, result: LayerResult) -> None:
        self._exact, self._quantized = result.exact, result.quantized
        if not all(mx.isfinite(x).all().item() for x in self._quantized):
            raise ConversionError(f"layer {index} gives values that aren't finite: the source can't be calibrated")
        self._scales.append(result.scales)
        prefix = f"model.layers.{index}"
        self._results[prefix] = {f"{prefix}.{name}": rounded for name, rounded in result.rounded.items()}
        self._results.pop(f"model.layers.{index - 2}", None)

    def _calibrate_head(self) -> None:
        """Equalize and round an untied head on the hidden states of the quantized layers."""
        self._until(self.config.num_hidden_layers - 1)
        exact, quantized = self._normed(self._exact), self._normed(self._quantized)
        norm = np.array(self._reader.tensor("model.norm.weight"))
        self._head = norm_scales(norm, channel_rms(exact), self.plan.dtype)
        scheme = self.plan.schemes.get("lm_head")
        if scheme and scheme.mode == "affine":
            inverse = mx.array(1 / self._head)
            factor = inverse_factor(moments(mapped(lambda x: x * inverse, quantized)), self.settings.damping)
            weights = self._reader.head() * mx.array(self._head)
            told = partial(self._phase, "calibrating the head")
            self._results["lm_head"] = {"lm_head": compensated(weights, factor, scheme, self.dtype, told)}


def batches_of(windows: Sequence[Sequence[int]]) -> list[mx.array]:
    """Return the windows as batches (B, L) of about _BATCH_TOKENS tokens."""
    step = max(1, _BATCH_TOKENS // len(windows[0]))
    return [mx.array([list(window) for window in windows[i : i + step]]) for i in range(0, len(windows), step)]
