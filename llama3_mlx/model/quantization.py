"""How a checkpoint's modules are quantized: the `quantization` entry of config.json, read, checked and written.

The format is mlx-lm's: `{"group_size", "bits", "mode", "<module path>": {"group_size", "bits", "mode"} | false}`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from ..errors import ConfigError
from ..json_types import JsonMapping, JsonObject

# Methods of other programs, as config.json names them, whose weights the converter reads.
CONVERTIBLE = ("awq", "gptq", "compressed-tensors", "fp8", "fbgemm_fp8")
AFFINE_BITS = (2, 3, 4, 5, 6, 8)
AFFINE_GROUP_SIZES = (32, 64, 128)
# The floating-point modes have one shape each. Source: docstring of mlx.core.quantize.
FIXED_MODES = {"mxfp4": (4, 32), "nvfp4": (4, 16), "mxfp8": (8, 32)}


@dataclass(frozen=True)
class Scheme:
    """Bits, group size and mode of one quantized matrix; refuses combinations that MLX doesn't have."""

    bits: int
    group_size: int = 64
    mode: str = "affine"

    def __post_init__(self) -> None:
        if self.mode == "affine":
            if self.bits not in AFFINE_BITS:
                raise ConfigError(f"bits must be one of {', '.join(map(str, AFFINE_BITS))}, not {self.bits!r}")
            if self.group_size not in AFFINE_GROUP_SIZES:
                accepted = ", ".join(map(str, AFFINE_GROUP_SIZES))
                raise ConfigError(f"group_size must be one of {accepted}, not {self.group_size!r}")
        elif self.mode not in FIXED_MODES:
            raise ConfigError(f"mode must be one of affine, {', '.join(FIXED_MODES)}, not {self.mode!r}")
        elif (self.bits, self.group_size) != FIXED_MODES[self.mode]:
            bits, group_size = FIXED_MODES[self.mode]
            raise ConfigError(
                f"{self.mode} has {bits} bits and group size {group_size}, not {self.bits!r} and {self.group_size!r}"
            )

    @property
    def bits_per_weight(self) -> float:
        """Stored bits a weight: affine keeps a 16-bit scale and bias a group, the others an 8-bit scale."""
        return self.bits + (32 if self.mode == "affine" else 8) / self.group_size

    def to_dict(self) -> JsonObject:
        """Return the three fields under their names in config.json."""
        return {"group_size": self.group_size, "bits": self.bits, "mode": self.mode}


@dataclass(frozen=True)
class Quantization:
    """The scheme of a whole checkpoint, with exceptions by module path (None: that module isn't quantized)."""

    default: Scheme
    modules: Mapping[str, Scheme | None] = field(default_factory=dict)

    def scheme_for(self, path: str) -> Scheme | None:
        """Return the scheme of the module at `path`, or None if it isn't quantized."""
        return self.modules.get(path, self.default)

    @classmethod
    def from_dict(cls, values: JsonMapping) -> "Quantization":
        """Read the `quantization` entry; raises ConfigError with the offending value."""
        default = _scheme_from_dict(values, "quantization", None)
        modules: dict[str, Scheme | None] = {}
        for path, entry in values.items():
            if isinstance(entry, Mapping):
                modules[path] = _scheme_from_dict(entry, f"quantization of {path}", default)
            elif entry is False:
                modules[path] = None
        return cls(default, modules)

    def to_dict(self) -> JsonObject:
        """Return the `quantization` entry as mlx-lm reads it."""
        exceptions = {path: scheme.to_dict() if scheme else False for path, scheme in self.modules.items()}
        return {**self.default.to_dict(), **exceptions}


def _scheme_from_dict(values: JsonMapping, where: str, default: Scheme | None) -> Scheme:
    """Read one scheme; a null or absent field is the default's (mlx-lm writes `group_size: null` in mixed recipes)."""
    mode = values.get("mode") or (default.mode if default else "affine")
    fixed = FIXED_MODES.get(mode) if isinstance(mode, str) else None
    bits = values.get("bits") or (fixed[0] if fixed else default.bits if default else None)
    group_size = values.get("group_size") or (fixed[1] if fixed else default.group_size if default else 64)
    if not isinstance(bits, int) or not isinstance(group_size, int):
        raise ConfigError(f"{where}: bits and group_size must be whole numbers, not {bits!r} and {group_size!r}")
    try:
        return Scheme(bits, group_size, mode)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None
