"""`convert`, `dry_run` and `verify`: from options to a source, a target and a run."""

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Unpack

from ..checkpoint.folder import load_config
from ..errors import ConversionError
from ..model.channel_scales import load_scales
from ..model.quantization import Quantization
from .forecasting import Forecast, forecast, uniform_bits
from .keywords import ConversionKeywords
from .opening import open_source, outline_source
from .options import DTYPE_NAMES, ConversionOptions, make_options
from .pipeline import ConversionReport, Progress, run
from .plan import Plan, make_plan
from .quantization.equalized_source import in_channels
from .quantization.quantizer import Quantizer, RoundToNearest
from .quantization.recipes import make_quantization
from .sources.source import Source
from .targets.destination import check_destination, no_space
from .targets.folder import FolderTarget, Target, lossy_kinds
from .targets.upload import check_login, upload
from .targets.verification import Verification, verify_files


def convert(
    source: str | Path,
    dest: str | Path,
    *,
    force: bool = False,
    verify: bool = False,
    upload_to: str | None = None,
    report_to: str | Path | None = None,
    progress: Progress | None = None,
    **settings: Unpack[ConversionKeywords],
) -> ConversionReport:
    """Convert weights into an MLX folder, a folder for transformers or a GGUF file at `dest`.

    `source` is a folder or a Hub id of Hugging Face safetensors, a folder of Meta's own files, or a GGUF file.
    `settings` are the fields of ConversionOptions: with `bits` the matrices are quantized, in groups of `group_size`
    (default 64); without, all is kept in `dtype`. `dtype` is float16, bfloat16 or float32, by default the source's,
    and float16 for scales and norms of a quantized model whose source is float32. `verify` re-reads what was written
    before it takes its place; `upload_to` is the Hub id of a repository to put it in afterwards. `report_to` is a
    folder for tables and a picture of how far every module and the whole are from the source.
    `dest` appears when it is whole. A run that was killed goes on where it stopped when it is called again.
    Raises ConfigError, CheckpointError, ConversionError or HubError.
    """
    options, place = make_options(settings), _place(dest)
    kind = options.target(place)
    # Known before anything is downloaded, and before a model is measured for its bits.
    check_destination(place, None, force=force, single_file=kind == "gguf")
    if upload_to is not None:
        check_login(upload_to)
    opened = open_source(source, progress=progress is not None)
    try:
        check_destination(place, opened.location, force=force, single_file=kind == "gguf")
        if progress and options.target_bpw is not None:
            progress.stage("measuring which modules need more bits")
        target = make_target(opened, options, kind, place)
        report = run(
            opened,
            target,
            place,
            settings=told(options),
            force=force,
            verify=verify,
            measure=measurement(opened, target, options, report_to),
            progress=progress,
        )
    finally:
        opened.close()
    if upload_to is not None:
        upload(place, upload_to, progress=progress is not None)
    return report


def dry_run(
    source: str | Path, dest: str | Path, *, progress: Progress | None = None, **settings: Unpack[ConversionKeywords]
) -> Forecast:
    """Tell what a conversion with these settings would write and need; nothing stays written.

    Of a Hub id only config.json is fetched, and a folder may hold nothing but that. Memory and speed are measured on
    a sample of the conversion itself. Raises what `convert` raises for settings and source.
    """
    options, place = make_options(settings), _place(dest)
    kind, target_bpw = options.target(place), options.target_bpw
    notes = []
    if options.looks_at_text:
        # Calibrating changes neither sizes nor what the conversion itself takes.
        options = replace(options, quality="nearest", calibration=None)
        notes.append("time and memory are those of the conversion alone: calibrating comes on top")
    if target_bpw is not None:
        options = replace(options, target_bpw=None, calibration=None, bits=uniform_bits(target_bpw))
        notes.append("which matrix gets how many bits is measured on the model first")
    if progress:
        progress.stage("trying a sample")
    began = time.perf_counter()
    opened = outline_source(source)
    try:
        target = make_target(opened, options, kind, place)
        opening = time.perf_counter() - began
        expected = forecast(target, place)
        expected = replace(expected, seconds=expected.seconds + opening)
        expected = expected if target_bpw is None else expected.at(target_bpw)
        notes += no_space(place, sum(expected.files.values()))
        return replace(expected, warnings=(*expected.warnings, *notes))
    finally:
        opened.close()


def verify(folder: str | Path, source: str | Path | None = None) -> Verification:
    """Re-read a converted folder: checksums of all tensors and, with its source, each one's dequantized error.

    Raises CheckpointError naming every tensor that isn't what was written.
    """
    path = Path(folder).expanduser()
    if source is None:
        return verify_files(path)
    opened = open_source(source)
    try:
        scales = load_scales(path, load_config(path))
        return verify_files(path, in_channels(opened, "F32", scales).tensors())
    finally:
        opened.close()


def make_target(source: Source, options: ConversionOptions, kind: str, dest: Path) -> Target:
    """Return what lays out and writes the result; raises ConversionError where source and options don't agree."""
    if kind == "gguf":
        from .gguf.target import GGUFTarget

        return GGUFTarget(in_channels(source, "F32", None), dest.name, options.gguf_type or "f16")
    quantized = getattr(source, "is_quantized", False)
    if kind == "mlx" and quantized and not options.quantizes and not options.dequantize:
        raise ConversionError(
            f"{source.description} is quantized already: choose bits to quantize it again, or dequantize to write "
            "whole weights"
        )
    plan = plan_for(source, options)
    if kind == "hf":
        return FolderTarget(in_channels(source, plan.dtype, None), plan, RoundToNearest(), form="pt")
    source, quantizer = with_quality(source, plan, options)
    return FolderTarget(source, plan, quantizer)


def with_quality(source: Source, plan: Plan, options: ConversionOptions) -> tuple[Source, Quantizer]:
    """Return the source as it is to be read, and the quantizer, for what the options ask of the quality."""
    quality = options.chosen_quality(lossy=bool(lossy_kinds(source.tensors())))
    if quality == "nearest" or not plan.schemes:
        return source, RoundToNearest()
    from .quantization.methods import climb

    return climb(source, plan, quality, options.calibration)


def measurement(
    source: Source, target: Target, options: ConversionOptions, report_to: str | Path | None
) -> Callable[[Path], Mapping[str, Any]] | None:
    """Return what measures the written folder against the source, None where nothing asks for it."""
    if not isinstance(target, FolderTarget) or not target.plan.schemes:
        if report_to is not None:
            raise ConversionError("a report is about quantized folders: say how many bits, or leave it out")
        return None
    if report_to is None and not options.looks_at_text:
        return None
    from .quantization.methods import held_out_windows
    from .quantization.report import measured

    # A source without a tokenizer is found out before the work, not after it.
    windows, reference = held_out_windows(source), target.source
    folder = Path(report_to).expanduser() if report_to is not None else None
    return lambda written: measured(source, reference, written, windows, folder)


def plan_for(source: Source, options: ConversionOptions) -> Plan:
    """Return what a conversion with these options writes."""
    if options.target_bpw is not None:
        from .quantization.methods import allocated

        quantization: Quantization | None = allocated(source, options.target_bpw, options.calibration)
    else:
        quantization = make_quantization(source.config, options)
    dtype = choose_dtype(options.dtype, source.config.dtype, quantized=quantization is not None)
    return make_plan(source.config, quantization, dtype)


def choose_dtype(asked: str | None, stored: str | None, *, quantized: bool) -> str:
    """Return the safetensors name of the dtype to write."""
    if asked is not None:
        return DTYPE_NAMES[asked]
    if stored not in DTYPE_NAMES or (stored == "float32" and quantized):
        return "F16"
    return DTYPE_NAMES[stored]


def told(options: ConversionOptions) -> dict[str, Any]:
    """Return the settings that were given, as JSON has them; of a file its name."""
    default = ConversionOptions()
    given = {name: value for name, value in asdict(options).items() if value != getattr(default, name)}
    return {name: value.name if isinstance(value, Path) else value for name, value in given.items()}


def _place(dest: str | Path) -> Path:
    return Path(dest).expanduser().absolute()
