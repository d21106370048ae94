"""The ladder of qualities: what each step does to a source and which quantiser it takes."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

from ...errors import ConversionError
from ...tokenizer import Tokenizer
from ...tokenizer_files import load_tokenizer
from ..plan import Plan
from ..quantise import Quantiser, RoundToNearest
from ..tensors import Source
from .calibrate import CalibrationSettings
from .calibration import Calibration
from .corpus import calibration_texts, token_windows
from .equalised_source import EqualisedSource, WeightScales
from .nearest import EqualisedNearest

QUALITIES = ("nearest", "fast", "calibrated")


def with_quality(
    source: Source,
    plan: Plan,
    quality: str,
    *,
    text: Path | None = None,
    windows: int | None = None,
    settings: CalibrationSettings | None = None,
) -> tuple[Source, Quantiser]:
    """Return the source to convert and the quantiser to convert it with, for a step of the ladder.

    nearest: as it is. fast: channels equalised by what the weights tell, no text needed. calibrated: equalised and
    rounded against the activations of `text` (default: the built-in texts), at most `windows` windows of it.
    """
    if quality == "nearest":
        return source, RoundToNearest()
    if quality == "fast":
        scales = WeightScales(source, plan.dtype)
        fits = ("model.embed_tokens",) if source.config.tie_word_embeddings else ()
        return EqualisedSource(source, plan.dtype, scales.layer, scales.head), EqualisedNearest(fits)
    if quality == "calibrated":
        tokens = token_windows(tokenizer_of(source), calibration_texts(text), most=windows)
        calibration = Calibration(source, plan, tokens, settings)
        return EqualisedSource(source, plan.dtype, calibration.layer_scales, calibration.head_scales), calibration
    raise ConversionError(f"quality must be one of {', '.join(QUALITIES)}, not {quality!r}")


def tokenizer_of(source: Source) -> Tokenizer:
    """Load the tokenizer that the source would write."""
    with tempfile.TemporaryDirectory() as folder:
        source.save_side_files(Path(folder))
        return load_tokenizer(Path(folder))


def windows_for(source: Source, text: Path | None = None, most: int | None = None) -> Sequence[Sequence[int]]:
    """Return windows of tokens to calibrate on."""
    return token_windows(tokenizer_of(source), calibration_texts(text), most=most)
