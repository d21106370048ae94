"""What a caller can ask of a conversion: each setting once, with its help; the command's flags come from here."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import ConversionError
from ..model.quantization import AFFINE_BITS, AFFINE_GROUP_SIZES, FIXED_MODES, Scheme
from ..settings import make, setting, validate

DTYPE_NAMES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}
TARGETS = ("mlx", "hf", "gguf")
GGUF_TYPES = ("f32", "f16", "q8_0", "q4_0", "q4_1")
QUALITIES = ("nearest", "fast", "calibrated", "distilled")
BUILTIN_TEXT = Path("builtin")


@dataclass(frozen=True, kw_only=True)
class ConversionOptions:
    """Settings of one conversion. Without bits, mode, mixed or rules nothing is quantized."""

    bits: int | None = setting(None, "bits of a weight (default: not quantized)", choices=AFFINE_BITS, short="-b")
    group_size: int | None = setting(
        None, "weights that share a scale (default: 64)", choices=AFFINE_GROUP_SIZES, short="-g"
    )
    mode: str = setting("affine", "number format", choices=("affine", *FIXED_MODES))
    dtype: str | None = setting(
        None, "of what isn't quantized (default: the source's; float16 for a quantized source)", choices=[*DTYPE_NAMES]
    )
    mixed: str | None = setting(
        None, "LOW bits, and HIGH for the head and half of v_proj and down_proj, as in 4_6", metavar="LOW_HIGH"
    )
    rules: Path | None = setting(  # noqa: RUF009
        None, "JSON or TOML file that says which modules get which bits", metavar="FILE"
    )
    embedding_bits: int | None = setting(
        None, "bits of the embedding, which a tied head shares (0: not quantized)", choices=(0, *AFFINE_BITS)
    )
    head_bits: int | None = setting(None, "bits of the head (0: not quantized)", choices=(0, *AFFINE_BITS))
    quality: str | None = setting(
        None,
        "nearest: plain rounding; fast: channels evened out first, as quick; calibrated: rounded against the model's "
        "activations on a text; distilled: scales trained on it as well (default: calibrated with a calibration text "
        "or target_bpw; else fast for affine bits, and nearest where the source is quantized already)",
        choices=QUALITIES,
    )
    calibration: Path | None = setting(  # noqa: RUF009
        None, "text file to calibrate on, or 'builtin' for texts of this package", metavar="FILE"
    )
    target_bpw: float | None = setting(
        None,
        "bits of a weight on average, everything counted, spent where a measurement says they count",
        above=2,
        high=16,
    )
    dequantize: bool = setting(False, "write a quantized source's weights whole")
    to: str | None = setting(
        None,
        "mlx: folder for MLX; hf: folder for transformers; gguf: file for llama.cpp and Ollama (default: mlx, and gguf "
        "where DEST ends in .gguf)",
        choices=TARGETS,
    )
    gguf_type: str | None = setting(None, "type of the matrices in GGUF (default: f16)", choices=GGUF_TYPES)

    def __post_init__(self) -> None:
        validate(self, error=ConversionError)
        self._check_target_bpw()
        apart = (self.rules, self.embedding_bits, self.head_bits)
        if self.default_scheme() is None and self.group_size is not None and apart == (None, None, None):
            raise ConversionError("a group size needs bits: say how many, or leave both out to keep the weights whole")

        if self.quantizes and self.dequantize:
            raise ConversionError("dequantize writes whole weights: leave it out, or leave out what asks for bits")

    @property
    def quantizes(self) -> bool:
        """Whether these settings ask for MLX's quantized weights."""
        set_apart = (self.embedding_bits, self.head_bits)
        asked = (self.rules, self.target_bpw)
        return self.default_scheme() is not None or asked != (None, None) or any(set_apart)

    def chosen_quality(self, *, lossy: bool) -> str:
        """Return the step of the ladder: what was asked for, or what the other settings suggest.

        Weights that lie on a grid already (`lossy`) are rounded to the nearest: moved off it they would lose more.
        """
        if self.quality or self.looks_at_text:
            return self.quality or "calibrated"
        return "nearest" if lossy or self.mode != "affine" else "fast"

    @property
    def looks_at_text(self) -> bool:
        """Whether the model is run on a text to quantize it."""
        if self.quality is not None:
            return self.quality in ("calibrated", "distilled")
        return self.calibration is not None or self.target_bpw is not None

    def _check_target_bpw(self) -> None:
        if self.target_bpw is not None:
            names = ("bits", "group_size", "mixed", "rules", "embedding_bits", "head_bits")
            taken = [name for name in names if getattr(self, name) is not None]
            if taken or self.mode != "affine":
                taken = taken or ["mode"]
                raise ConversionError(f"target_bpw chooses every module's bits itself: leave out {', '.join(taken)}")
        if (self.quality or self.calibration) and not self.quantizes:
            raise ConversionError("a quality needs bits: say how many, or give target_bpw")
        if self.calibration and self.quality in ("nearest", "fast") and self.target_bpw is None:
            raise ConversionError(f"quality {self.quality} looks at no text: leave out the calibration text")

    def target(self, dest: Path) -> str:
        """Return the kind of target; raises ConversionError where other settings don't go with it."""
        kind = self.to or ("gguf" if dest.suffix == ".gguf" else "mlx")
        if kind != "mlx" and self.quantizes:
            raise ConversionError(f"bits are for MLX folders; {kind} is written whole" + _INSTEAD[kind])
        if kind == "gguf" and self.dtype:
            raise ConversionError("dtype is not for gguf: choose gguf_type f16 or f32")
        if kind != "gguf" and self.gguf_type:
            raise ConversionError(f"gguf_type is for gguf files, and {dest.name} is to be of kind {kind}")
        if (kind == "gguf") != (dest.suffix == ".gguf"):
            raise ConversionError(
                f"{dest.name} can't be of kind {kind}: a GGUF file's name ends in .gguf, no other's does"
            )
        return kind

    def default_scheme(self) -> Scheme | None:
        """Return the scheme of modules that nothing else is said about, None if nothing is quantized.

        The floating-point modes have one shape each; a mixed recipe's low bits are its default.
        """
        if self.mode in FIXED_MODES:
            fixed_bits, fixed_group = FIXED_MODES[self.mode]
            return Scheme(self.bits or fixed_bits, self.group_size or fixed_group, self.mode)
        bits = self.bits
        if self.mixed is not None:
            if bits is not None:
                raise ConversionError("bits and mixed exclude each other: a mixed recipe names its bits itself")
            bits, _ = mixed_bits(self.mixed)
        if bits is None and self.mode == "affine":
            return None
        return Scheme(4 if bits is None else bits, self.group_size or 64, self.mode)


_INSTEAD = {"hf": "", "gguf": " or in its own types: choose with gguf_type"}


def mixed_bits(mixed: str) -> tuple[int, int]:
    """Return low and high bits of a recipe such as 4_6; mlx-lm's `mixed_4_6` is understood as well."""
    low, _, high = mixed.removeprefix("mixed_").partition("_")
    accepted = [str(bits) for bits in AFFINE_BITS]
    if low not in accepted or high not in accepted or not int(low) < int(high):
        raise ConversionError(f"mixed must be LOW_HIGH, two of {', '.join(accepted)} such as 4_6, not {mixed!r}")
    return int(low), int(high)


def make_options(settings: Mapping[str, Any]) -> ConversionOptions:
    """Build the options from keyword arguments; raises ConversionError on unknown names."""
    return make(ConversionOptions, settings, error=ConversionError)
