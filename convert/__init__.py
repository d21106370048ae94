"""Brings weights into MLX folders; installed as `llama3_mlx.convert`."""

from pathlib import Path

from ..errors import ConversionError
from ..quantization import FIXED_MODES, Quantization, Scheme
from .pipeline import DTYPE_NAMES, ConversionReport, Progress, run
from .plan import make_plan
from .quantise import RoundToNearest
from .sources import open_source

__all__ = ["ConversionReport", "Progress", "convert"]


def convert(
    source: str | Path,
    dest: str | Path,
    *,
    bits: int | None = None,
    group_size: int | None = None,
    mode: str = "affine",
    dtype: str | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> ConversionReport:
    """Convert weights into an MLX folder at `dest`, which appears when it is whole.

    `source` is a folder or a Hub id of Hugging Face safetensors, or a GGUF file. With `bits` the matrices are
    quantised, in groups of `group_size` (default 64); without, all is kept in `dtype`. `dtype` is float16, bfloat16
    or float32, by default the source's, and float16 for scales and norms of a quantised model whose source is
    float32. Raises ConfigError, CheckpointError, ConversionError or HubError. A run that was killed goes on where it
    stopped when it is called again.
    """
    scheme = make_scheme(bits, group_size, mode)
    opened = open_source(source, progress=progress is not None)
    try:
        chosen = choose_dtype(dtype, opened.config.dtype, quantised=scheme is not None)
        plan = make_plan(opened.config, Quantization(scheme) if scheme else None, chosen)
        options = {"scheme": scheme.to_dict() if scheme else None, "dtype": chosen}
        target = Path(dest).expanduser().absolute()
        return run(opened, plan, RoundToNearest(), scheme, target, options=options, force=force, progress=progress)
    finally:
        opened.close()


def make_scheme(bits: int | None, group_size: int | None, mode: str = "affine") -> Scheme | None:
    """Return the scheme asked for, None for no quantisation; the floating-point modes have one shape each."""
    if mode in FIXED_MODES:
        fixed_bits, fixed_group = FIXED_MODES[mode]
        return Scheme(bits or fixed_bits, group_size or fixed_group, mode)
    if bits is None:
        if group_size is not None:
            raise ConversionError("a group size needs bits: say how many, or leave both out to keep the weights whole")
        return None
    return Scheme(bits, group_size or 64, mode)


def choose_dtype(asked: str | None, stored: str | None, *, quantised: bool) -> str:
    """Return the safetensors name of the dtype to write."""
    if asked is not None:
        if asked not in DTYPE_NAMES:
            raise ConversionError(f"dtype must be one of {', '.join(DTYPE_NAMES)}, not {asked!r}")
        return DTYPE_NAMES[asked]
    if stored not in DTYPE_NAMES or (stored == "float32" and quantised):
        return "F16"
    return DTYPE_NAMES[stored]
