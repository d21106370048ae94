"""The settings of a conversion: each declared once, with its help; the command's flags come from here."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..dtypes import DTYPES
from ..errors import ConversionError
from ..json_types import JsonMapping
from ..model.quantization import AFFINE_BITS, AFFINE_GROUP_SIZES, FIXED_MODES, Scheme
from ..settings import make, setting, validate

TARGETS = ("mlx", "hf", "gguf")
GGUF_TYPES = ("f32", "f16", "bf16", "q8_0", "q6_k", "q5_k_m", "q5_k_s", "q4_k_m", "q4_1", "q4_0")
# The quantization methods; quantization/methods.py has the table of what they are.
QUALITIES = ("rtn", "repack", "fast", "calibrated", "distilled")
BUILTIN_TEXT = Path("builtin")


def _gguf_type_problem(name: str, value: Any) -> str | None:
    if isinstance(value, str) and value.lower() in GGUF_TYPES:
        return None
    return f"{name} must be one of {', '.join(GGUF_TYPES)}, not {value!r}"


@dataclass(frozen=True, kw_only=True)
class ConversionOptions:
    """Settings of one conversion. Without bits, mode, mixed, rules or target_bpw nothing is quantized."""

    bits: int | None = setting(None, "bits of a weight (default: not quantized)", choices=AFFINE_BITS, short="-b")
    group_size: int | None = setting(
        None, "weights that share a scale (default: 64)", choices=AFFINE_GROUP_SIZES, short="-g"
    )
    mode: str = setting("affine", "number format", choices=("affine", *FIXED_MODES))
    dtype: str | None = setting(
        None, "of what isn't quantized (default: the source's; float16 for a quantized source)", choices=[*DTYPES]
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
        "rtn: round-to-nearest; repack: a quantized source's own levels where they fit; fast: channel equalization "
        "first, as quick; calibrated: GPTQ against the model's activations on a text; distilled: scales and norms "
        "trained on it as well (default: calibrated with a calibration text or target_bpw; else fast for affine bits, "
        "and repack where the source is quantized already)",
        choices=QUALITIES,
    )
    calibration: Path | None = setting(  # noqa: RUF009
        None, "text file to calibrate on, or 'builtin' for texts of this package", metavar="FILE"
    )
    target_bpw: float | None = setting(
        None, "average bits per weight, everything counted, allocated by measured sensitivity", above=2, high=16
    )
    dequantize: bool = setting(False, "write the weights of a quantized source unquantized")
    to: str | None = setting(
        None,
        "mlx: folder for MLX; hf: folder for transformers; gguf: file for llama.cpp and Ollama (default: mlx, and gguf "
        "where DEST ends in .gguf)",
        choices=TARGETS,
    )
    gguf_type: str | None = setting(
        None,
        f"type of the matrices in GGUF: {', '.join(GGUF_TYPES)} (default: f16)",
        check=_gguf_type_problem,
        metavar="TYPE",
    )

    def __post_init__(self) -> None:
        validate(self, error=ConversionError)
        # The shell leaves the ~ in --rules=~/rules.toml as it is.
        for name in ("rules", "calibration"):
            if isinstance(file := getattr(self, name), Path):
                object.__setattr__(self, name, file.expanduser())
        if self.gguf_type is not None:
            object.__setattr__(self, "gguf_type", self.gguf_type.lower())
        self._check_target_bpw()
        apart = (self.rules, self.embedding_bits, self.head_bits)
        if self.default_scheme() is None and self.group_size is not None and apart == (None, None, None):
            raise ConversionError("a group size needs bits: say how many, or leave both out to quantize nothing")
        if self.quantizes and self.dequantize:
            raise ConversionError("dequantize writes unquantized weights: leave it out, or leave out what sets bits")

    @property
    def quantizes(self) -> bool:
        """Whether these settings quantize in MLX's formats."""
        set_apart = (self.embedding_bits, self.head_bits)
        others = (self.rules, self.target_bpw)
        return self.default_scheme() is not None or others != (None, None) or any(set_apart)

    def chosen_quality(self, *, lossy: bool, equalizable: bool = True) -> str:
        """Return the quantization method: the given one, or what the other settings suggest.

        Weights that lie on a grid already (`lossy`) are repacked: moved off it they would lose more.
        """
        if self.quality or self.uses_text:
            return self.quality or "calibrated"
        if self.mode != "affine" or not (lossy or equalizable):
            return "rtn"
        return "repack" if lossy else "fast"

    @property
    def uses_text(self) -> bool:
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
        if self.calibration and self.quality in ("rtn", "repack", "fast") and self.target_bpw is None:
            raise ConversionError(f"quality {self.quality} uses no text: leave out the calibration text")

    def target(self, dest: Path) -> str:
        """Return the kind of target; raises ConversionError where other settings don't go with it."""
        kind = self.to or ("gguf" if dest.suffix.lower() == ".gguf" else "mlx")
        if kind != "mlx" and self.quantizes:
            raise ConversionError(f"bits are for MLX folders; {kind} is not quantized by them" + _INSTEAD[kind])
        if kind == "gguf" and self.dtype:
            raise ConversionError("dtype is not for gguf: choose gguf_type f16, bf16 or f32")
        if kind != "gguf" and self.gguf_type:
            raise ConversionError(f"gguf_type is for gguf files, and {dest.name} is to be of kind {kind}")
        if (kind == "gguf") != (dest.suffix.lower() == ".gguf"):
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


_INSTEAD = {"hf": ": leave them out", "gguf": ": choose one of its own types with gguf_type"}


def mixed_bits(mixed: str) -> tuple[int, int]:
    """Return low and high bits of a recipe such as 4_6; mlx-lm's `mixed_4_6` is understood as well."""
    low, _, high = mixed.removeprefix("mixed_").partition("_")
    accepted = [str(bits) for bits in AFFINE_BITS]
    if low not in accepted or high not in accepted or not int(low) < int(high):
        raise ConversionError(f"mixed must be LOW_HIGH, two of {', '.join(accepted)} such as 4_6, not {mixed!r}")
    return int(low), int(high)


def make_conversion_options(settings: JsonMapping) -> ConversionOptions:
    """Build the options from keyword arguments; raises ConversionError on unknown names."""
    return make(ConversionOptions, settings, error=ConversionError)
