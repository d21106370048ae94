"""The quantization methods: METHODS has one entry for each, with its paper and the modules that implement it."""

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ...errors import ConversionError
from ...model.quantization import Quantization
from ...tokenizer.loading import load_tokenizer
from ...tokenizer.tokenizer import Tokenizer
from ..options import BUILTIN_TEXT
from ..phases import Phase, unseen
from ..plan import Plan
from ..sources.source import Source
from .bit_allocation import allocate
from .calibration import Calibration
from .corpus import builtin_texts, text_of, token_windows
from .distillation import Distillation
from .distilled_source import DistilledSource
from .equalized_source import EqualizedSource, WeightScales
from .fast_rounding import EqualizedRoundToNearest
from .quantizer import Quantizer, RoundToNearest
from .repacking import Repacking
from .sensitivity import sensitivities

# Windows that the modules' sensitivity is measured on: gradients make it the more expensive pass.
_MEASURED_WINDOWS = 8
_HELD_OUT_WINDOWS = 16


@dataclass(frozen=True)
class PreparedMethod:
    """A source as a method wants it read, the quantizer, and the unquantized model in the result's channels."""

    source: Source
    quantizer: Quantizer
    reference: Source


def _rtn(source: Source, _plan: Plan, _text: Path | None, _phase: Phase) -> PreparedMethod:
    return PreparedMethod(source, RoundToNearest(), source)


def _repack(source: Source, _plan: Plan, _text: Path | None, _phase: Phase) -> PreparedMethod:
    return PreparedMethod(source, Repacking(), source)


def _fast(source: Source, plan: Plan, _text: Path | None, _phase: Phase) -> PreparedMethod:
    scales = WeightScales(source, plan.dtype)
    fits = ("model.embed_tokens",) if source.config.tie_word_embeddings else ()
    equalized = EqualizedSource(source, plan.dtype, scales.layer, scales.head)
    return PreparedMethod(equalized, EqualizedRoundToNearest(fits), equalized)


def _calibrated(source: Source, plan: Plan, text: Path | None, phase: Phase) -> PreparedMethod:
    calibration, equalized = _calibration(source, plan, windows_for(source, text), phase)
    return PreparedMethod(equalized, calibration, equalized)


def _distilled(source: Source, plan: Plan, text: Path | None, phase: Phase) -> PreparedMethod:
    windows = windows_for(source, text)
    calibration, equalized = _calibration(source, plan, windows, phase)
    distillation = Distillation(source, equalized, calibration, plan, windows, phase=phase)
    return PreparedMethod(DistilledSource(equalized, distillation.norm), distillation, equalized)


def _calibration(
    source: Source, plan: Plan, windows: list[list[int]], phase: Phase
) -> tuple[Calibration, EqualizedSource]:
    if source.is_mlx_quantized:
        raise ConversionError("the source is quantized already: calibrate the original weights, or use quality fast")
    calibration = Calibration(source, plan, windows, phase=phase)
    return calibration, EqualizedSource(source, plan.dtype, calibration.layer_scales, calibration.head_scales)


@dataclass(frozen=True)
class Method:
    """A quantization method: what it is, where it was published, which modules here have it."""

    summary: str
    paper: str
    modules: str
    prepare: Callable[[Source, Plan, Path | None, Phase], PreparedMethod]


METHODS: Mapping[str, Method] = {
    "rtn": Method(
        "round-to-nearest: MLX's own quantization, byte for byte mlx-lm's",
        "none; mlx.core.quantize",
        "quantizer.py",
        _rtn,
    ),
    "repack": Method(
        "the levels of a source that is quantized already, where MLX's groups can hold them; else round-to-nearest",
        "none; ggml's block formats",
        "repacking.py",
        _repack,
    ),
    "fast": Method(
        "channel equalization from the weights alone, then round-to-nearest",
        "SmoothQuant, https://arxiv.org/abs/2211.10438; AWQ, https://arxiv.org/abs/2306.00978",
        "equalization.py, channel_magnitudes.py, equalized_source.py, fast_rounding.py",
        _fast,
    ),
    "calibrated": Method(
        "channel equalization from activations, then GPTQ with error feedback from the layers before",
        "GPTQ, https://arxiv.org/abs/2210.17323; GPTAQ, https://arxiv.org/abs/2504.02692",
        "gptq.py, grid.py, layer_calibration.py, calibration.py, activations.py",
        _calibrated,
    ),
    "distilled": Method(
        "calibrated, then scales, biases and norms trained against the source's distributions",
        "DWQ, mlx-lm's quant/dwq.py; knowledge distillation, https://arxiv.org/abs/1503.02531",
        "distillation.py, distilled_source.py",
        _distilled,
    ),
}


def apply_method(
    source: Source, plan: Plan, method: str, text: Path | None = None, phase: Phase = unseen
) -> PreparedMethod:
    """Prepare a source for a method of METHODS; `text` is what it calibrates on (default: the built-in texts)."""
    return METHODS[method].prepare(source, plan, text, phase)


def allocated(source: Source, target_bpw: float, text: Path | None = None, phase: Phase = unseen) -> Quantization:
    """Return the schemes that spend `target_bpw` bits per weight best, by the modules' sensitivity on a text."""
    windows = windows_for(source, text)
    few = windows[:: max(1, len(windows) // _MEASURED_WINDOWS)][:_MEASURED_WINDOWS]
    return allocate(source.config, sensitivities(source, few, phase=phase), target_bpw)


def windows_for(source: Source, text: Path | None = None) -> list[list[int]]:
    """Return windows of tokens to calibrate on."""
    texts = builtin_texts("calibration_text") if text in (None, BUILTIN_TEXT) else [text_of(text)]
    return token_windows(tokenizer_of(source), texts)


def held_out_windows(source: Source) -> list[list[int]]:
    """Return windows of tokens to measure on, of texts that nothing is calibrated on."""
    return token_windows(tokenizer_of(source), builtin_texts("evaluation_text"), max_windows=_HELD_OUT_WINDOWS)


def tokenizer_of(source: Source) -> Tokenizer:
    """Load the tokenizer that the source would write."""
    with tempfile.TemporaryDirectory() as folder:
        source.save_side_files(Path(folder))
        return load_tokenizer(Path(folder))
