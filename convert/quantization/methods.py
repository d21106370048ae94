"""The ladder of qualities: what each step does to a source and which quantizer it takes."""

import tempfile
from pathlib import Path

from ...errors import ConversionError
from ...model.quantization import Quantization
from ...tokenizer.loading import load_tokenizer
from ...tokenizer.tokenizer import Tokenizer
from ..options import BUILTIN_TEXT
from ..plan import Plan
from ..sources.source import Source
from .bit_allocation import allocate
from .calibration import Calibration
from .corpus import builtin_texts, text_of, token_windows
from .distillation import Distillation
from .distilled_source import DistilledSource
from .equalized_source import EqualizedSource, WeightScales
from .fast_rounding import EqualizedNearest
from .quantizer import Quantizer
from .sensitivity import sensitivities

# Windows that the modules' sensitivity is measured on: gradients make it the dearer pass.
_MEASURED_WINDOWS = 8
_HELD_OUT_WINDOWS = 16


def climb(source: Source, plan: Plan, quality: str, text: Path | None = None) -> tuple[Source, Quantizer]:
    """Return the source to convert and the quantizer to convert it with, for a step of the ladder above nearest.

    fast: channels evened out by what the weights tell, no text needed. calibrated: evened out and rounded against the
    activations of `text` (default: the built-in texts). distilled: scales and norms then trained on it as well.
    """
    if quality == "fast":
        scales = WeightScales(source, plan.dtype)
        fits = ("model.embed_tokens",) if source.config.tie_word_embeddings else ()
        return EqualizedSource(source, plan.dtype, scales.layer, scales.head), EqualizedNearest(fits)
    windows = windows_for(source, text)
    if getattr(source, "is_quantized", False):
        raise ConversionError("the source is quantized already: calibrate the original weights, or take quality fast")
    calibration = Calibration(source, plan, windows)
    equalized = EqualizedSource(source, plan.dtype, calibration.layer_scales, calibration.head_scales)
    if quality == "calibrated":
        return equalized, calibration
    if quality == "distilled":
        distillation = Distillation(source, equalized, calibration, plan, windows)
        return DistilledSource(equalized, distillation.norm), distillation
    raise ConversionError(f"quality must be fast, calibrated or distilled here, not {quality!r}")


def allocated(source: Source, target_bpw: float, text: Path | None = None) -> Quantization:
    """Return the schemes that spend `target_bpw` bits a weight best, by the modules' sensitivity on a text."""
    windows = windows_for(source, text)
    few = windows[:: max(1, len(windows) // _MEASURED_WINDOWS)][:_MEASURED_WINDOWS]
    return allocate(source.config, sensitivities(source, few), target_bpw)


def windows_for(source: Source, text: Path | None = None) -> list[list[int]]:
    """Return windows of tokens to calibrate on."""
    texts = builtin_texts("calibration_text") if text in (None, BUILTIN_TEXT) else [text_of(text)]
    return token_windows(tokenizer_of(source), texts)


def held_out_windows(source: Source) -> list[list[int]]:
    """Return windows of tokens to measure on, of texts that nothing is calibrated on."""
    return token_windows(tokenizer_of(source), builtin_texts("evaluation_text"), most=_HELD_OUT_WINDOWS)


def tokenizer_of(source: Source) -> Tokenizer:
    """Load the tokenizer that the source would write."""
    with tempfile.TemporaryDirectory() as folder:
        source.save_side_files(Path(folder))
        return load_tokenizer(Path(folder))
