"""From options and a source to the target that writes the result, and to what measures it."""

from collections.abc import Callable, Mapping
from pathlib import Path

from ..dtypes import STORED_NAMES
from ..errors import ConversionError
from ..model.channel_scales import SCALES_NAME
from ..model.quantization import Quantization
from .options import ConversionOptions
from .phases import Phase, unseen
from .plan import Plan, make_plan
from .quantization.equalized_source import in_channels
from .quantization.quantizer import RoundToNearest
from .quantization.recipes import make_quantization
from .sources.source import Source
from .targets.folder import FolderTarget, Target, lossy_kinds


def make_target(source: Source, options: ConversionOptions, kind: str, dest: Path, phase: Phase = unseen) -> Target:
    """Return what lays out and writes the result; raises ConversionError where source and options don't agree."""
    if kind == "gguf":
        from .gguf.target import GGUFTarget

        return GGUFTarget(in_channels(source, "F32", None), dest.name, options.gguf_type or "f16")
    if kind == "mlx" and source.is_mlx_quantized and not options.quantizes and not options.dequantize:
        raise ConversionError(
            f"{source.description} is quantized already: choose bits to quantize it again, or dequantize to write "
            "unquantized weights"
        )
    plan = plan_for(source, options, phase)
    if kind == "hf":
        return FolderTarget(in_channels(source, plan.dtype, None), plan, RoundToNearest(), form="pt")
    notes = target_notes(options.target_bpw, plan.bits_per_weight) if options.target_bpw is not None else []
    method = options.chosen_quality(lossy=bool(lossy_kinds(source.tensors())), equalizable=not source.lost_scales)
    if source.lost_scales and method not in ("rtn", "repack") and plan.schemes:
        raise ConversionError(
            f"{source.description} lacks {SCALES_NAME}, without which its channels can't be equalized again: put the "
            "file beside the weights from where the folder comes from, or choose quality rtn"
        )
    if not plan.schemes or method == "rtn":
        return FolderTarget(source, plan, RoundToNearest(), reference=source if plan.schemes else None, notes=notes)
    from .quantization.methods import apply_method

    prepared = apply_method(source, plan, method, options.calibration, phase)
    return FolderTarget(prepared.source, plan, prepared.quantizer, reference=prepared.reference, notes=notes)


def measurement(
    source: Source, target: Target, options: ConversionOptions, report_folder: Path | None, phase: Phase = unseen
) -> Callable[[Path], Mapping[str, float]] | None:
    """Return what measures the written folder against the source, None where nothing needs it."""
    reference = target.reference
    if reference is None:
        if report_folder is not None:
            raise ConversionError("a report is about quantized MLX folders: set bits, or leave the report out")
        return None
    if report_folder is None and not options.uses_text:
        return None
    from .quantization.methods import held_out_windows
    from .quantization.report import measured

    # A source without a tokenizer is found out before the work, not after it.
    windows, exact = held_out_windows(source), reference
    return lambda written: measured(source, exact, written, windows, report_folder, phase)


def plan_for(source: Source, options: ConversionOptions, phase: Phase = unseen) -> Plan:
    """Return what a conversion with these options writes."""
    if options.target_bpw is not None:
        from .quantization.methods import allocated

        quantization: Quantization | None = allocated(source, options.target_bpw, options.calibration, phase)
    else:
        quantization = make_quantization(source.config, options)
    dtype = choose_dtype(options.dtype, source.dtype, quantized=quantization is not None)
    return make_plan(source.config, quantization, dtype)


def choose_dtype(requested: str | None, stored: str | None, *, quantized: bool) -> str:
    """Return the safetensors name of the dtype to write; `stored` is that of the source's own weights."""
    if requested is not None:
        return STORED_NAMES[requested]
    return "F16" if stored is None or (stored == "F32" and quantized) else stored


def target_notes(target_bpw: float, reached: float) -> list[str]:
    """Return a note where the bits per weight are less than what was requested."""
    if reached > target_bpw - 0.05:
        return []
    return [f"{reached:.2f} bits per weight are as near to the target of {target_bpw:g} as this model's matrices allow"]
