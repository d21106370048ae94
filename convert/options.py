"""What a caller can ask of a conversion: each setting once, with its help; the command's flags come from here."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypedDict

from ..errors import ConversionError
from ..options import setting
from ..quantization import AFFINE_BITS, AFFINE_GROUP_SIZES, FIXED_MODES, Scheme

DTYPE_NAMES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}


@dataclass(frozen=True, kw_only=True)
class ConversionOptions:
    """Settings of one conversion. Without bits, mode, mixed or rules nothing is quantised."""

    bits: int | None = setting(None, "bits of a weight (default: not quantised)", choices=AFFINE_BITS)
    group_size: int | None = setting(None, "weights that share a scale (default: 64)", choices=AFFINE_GROUP_SIZES)
    mode: str = setting("affine", "number format", choices=("affine", *FIXED_MODES))
    dtype: str | None = setting(
        None, "of what isn't quantised (default: the source's; float16 for a quantised source)", choices=[*DTYPE_NAMES]
    )
    mixed: str | None = setting(
        None, "LOW bits, and HIGH for the head and half of v_proj and down_proj, as in 4_6", metavar="LOW_HIGH"
    )
    rules: Path | None = setting(  # noqa: RUF009
        None, "JSON or TOML file that says which modules get which bits", parse=Path, metavar="FILE"
    )
    embedding_bits: int | None = setting(
        None, "bits of the embedding, which a tied head shares (0: not quantised)", choices=(0, *AFFINE_BITS)
    )
    head_bits: int | None = setting(None, "bits of the head (0: not quantised)", choices=(0, *AFFINE_BITS))

    def __post_init__(self) -> None:
        if self.dtype is not None and self.dtype not in DTYPE_NAMES:
            raise ConversionError(f"dtype must be one of {', '.join(DTYPE_NAMES)}, not {self.dtype!r}")
        for name in ("embedding_bits", "head_bits"):
            if getattr(self, name) not in (None, 0, *AFFINE_BITS):
                accepted = ", ".join(map(str, (0, *AFFINE_BITS)))
                raise ConversionError(f"{name} must be one of {accepted}, not {getattr(self, name)!r}")
        apart = (self.rules, self.embedding_bits, self.head_bits)
        if self.default_scheme() is None and self.group_size is not None and apart == (None, None, None):
            raise ConversionError("a group size needs bits: say how many, or leave both out to keep the weights whole")

    def default_scheme(self) -> Scheme | None:
        """Return the scheme of modules that nothing else is said about, None if nothing is quantised.

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


def mixed_bits(mixed: str) -> tuple[int, int]:
    """Return low and high bits of a recipe such as 4_6; mlx-lm's `mixed_4_6` is understood as well."""
    low, _, high = mixed.removeprefix("mixed_").partition("_")
    accepted = [str(bits) for bits in AFFINE_BITS]
    if low not in accepted or high not in accepted or not int(low) < int(high):
        raise ConversionError(f"mixed must be LOW_HIGH, two of {', '.join(accepted)} such as 4_6, not {mixed!r}")
    return int(low), int(high)


class ConversionSettings(TypedDict, total=False):
    """The fields of ConversionOptions as keyword arguments; a test holds the two together."""

    bits: int | None
    group_size: int | None
    mode: str
    dtype: str | None
    mixed: str | None
    rules: Path | None
    embedding_bits: int | None
    head_bits: int | None


def make_options(settings: Mapping[str, Any]) -> ConversionOptions:
    """Build the options from keyword arguments; raises ConversionError on unknown names."""
    known = [entry.name for entry in fields(ConversionOptions)]
    unknown = sorted(set(settings) - set(known))
    if unknown:
        raise ConversionError(f"unknown option {', '.join(unknown)}; known are {', '.join(known)}")
    return ConversionOptions(**settings)
