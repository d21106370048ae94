"""Brings weights into MLX folders; installed as `llama3_mlx.convert`."""

from dataclasses import asdict
from pathlib import Path
from typing import Any, Unpack

from .options import DTYPE_NAMES, ConversionOptions, ConversionSettings, make_options
from .pipeline import ConversionReport, Progress, run
from .plan import Plan, make_plan
from .quantise import RoundToNearest
from .recipes import make_quantization
from .sources import open_source
from .tensors import Source
from .verify import ModuleError, Verification, verify_files

__all__ = ["ConversionOptions", "ConversionReport", "ModuleError", "Progress", "Verification", "convert", "verify"]


def convert(
    source: str | Path,
    dest: str | Path,
    *,
    force: bool = False,
    verify: bool = False,
    progress: Progress | None = None,
    **settings: Unpack[ConversionSettings],
) -> ConversionReport:
    """Convert weights into an MLX folder at `dest`, which appears when it is whole.

    `source` is a folder or a Hub id of Hugging Face safetensors, or a GGUF file. `settings` are the fields of
    ConversionOptions: with `bits` the matrices are quantised, in groups of `group_size` (default 64); without, all is
    kept in `dtype`. `dtype` is float16, bfloat16 or float32, by default the source's, and float16 for scales and
    norms of a quantised model whose source is float32. `verify` re-reads what was written before it takes its place.
    Raises ConfigError, CheckpointError, ConversionError or HubError. A run that was killed goes on where it stopped
    when it is called again.
    """
    options = make_options(settings)
    opened = open_source(source, progress=progress is not None)
    try:
        plan = plan_for(opened, options)
        target = Path(dest).expanduser().absolute()
        return run(
            opened,
            plan,
            RoundToNearest(),
            target,
            settings=_told(options),
            force=force,
            verify=verify,
            progress=progress,
        )
    finally:
        opened.close()


def verify(folder: str | Path, source: str | Path | None = None) -> Verification:
    """Re-read a converted folder: checksums of all tensors and, with its source, each one's dequantised error.

    Raises CheckpointError naming every tensor that isn't what was written.
    """
    path = Path(folder).expanduser()
    if source is None:
        return verify_files(path)
    opened = open_source(source)
    try:
        return verify_files(path, opened.tensors())
    finally:
        opened.close()


def plan_for(source: Source, options: ConversionOptions) -> Plan:
    """Return what a conversion with these options writes."""
    quantization = make_quantization(source.config, options)
    dtype = choose_dtype(options.dtype, source.config.dtype, quantised=quantization is not None)
    return make_plan(source.config, quantization, dtype)


def choose_dtype(asked: str | None, stored: str | None, *, quantised: bool) -> str:
    """Return the safetensors name of the dtype to write."""
    if asked is not None:
        return DTYPE_NAMES[asked]
    if stored not in DTYPE_NAMES or (stored == "float32" and quantised):
        return "F16"
    return DTYPE_NAMES[stored]


def _told(options: ConversionOptions) -> dict[str, Any]:
    """Return the settings that were given, as JSON has them."""
    default = ConversionOptions()
    given = {name: value for name, value in asdict(options).items() if value != getattr(default, name)}
    return {name: str(value) if isinstance(value, Path) else value for name, value in given.items()}
