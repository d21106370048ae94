"""`convert`, `dry_run`, `verify` and `measure`: from options to a source, a target and a run."""

import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Unpack

from ..checkpoint.folder import load_config
from ..dtypes import STORED_NAMES
from ..errors import ConversionError
from ..files import printable
from ..model.channel_scales import SCALES_NAME, ChannelScales, load_scales, lost_scales
from ..model.quantization import Quantization
from .forecasting import Forecast, forecast
from .hints import conversion_hints
from .keywords import ConversionKeywords
from .opening import open_source, outline_source
from .options import ConversionOptions, make_conversion_options
from .phases import MEASURING, Phase, phase_of, unseen
from .pipeline import ConversionReport, Progress, run
from .plan import Plan, make_plan, reachable_bpw, uniform_bits
from .quantization.equalized_source import in_channels
from .quantization.quantizer import RoundToNearest
from .quantization.recipes import make_quantization
from .sources.source import Source
from .sources.tokenizer_check import check_tokenizer
from .targets.destination import check_destination, lacking_space, resolved_destination
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
    """Convert weights into an MLX folder, a folder for transformers or a GGUF file, which appears atomically.

    An interrupted run is resumed when it is called again with the same arguments.

    Args:
        source: Folder or Hub id of Hugging Face safetensors, folder of Meta's own files, or GGUF file.
        dest: Folder or .gguf file to write. A link is followed: the result takes the place of what it points to.
        force: Replace what is at `dest` once the conversion is done.
        verify: Re-read the result before it takes its place: checksums, and each tensor's error.
        upload_to: Hub id of a repository to upload the result to afterwards.
        report_to: Folder for tables and a picture of the error of every module and of the whole model.
        progress: Is told how far the conversion is.
        settings: The fields of ConversionOptions. With `bits` the matrices are quantized, in groups of `group_size`
            (default 64); without, everything is stored in `dtype`: float16, bfloat16 or float32, by default the
            source's own, and float16 for scales and norms of a quantized model whose source is float32.

    Raises:
        ConfigError, CheckpointError, ConversionError, HubError: Each with one line that says what to do.
    """
    options, place = make_conversion_options(settings), resolved_destination(dest)
    kind = options.target(place)
    # Found out before anything is downloaded, and before a model is measured for its bits.
    check_destination(place, None, force=force, single_file=kind == "gguf")
    report_folder = _report_folder(report_to)
    if upload_to is not None:
        check_login(upload_to)
    opened = open_source(source, progress=progress is not None)
    try:
        check_destination(place, opened.location, force=force, single_file=kind == "gguf")
        if progress and options.target_bpw is not None:
            progress.stage("measuring which modules need more bits")
        notes = check_tokenizer(opened)
        target = make_target(opened, options, kind, place, phase_of(progress))
        report = run(
            opened,
            target,
            place,
            settings=given_settings(options),
            force=force,
            verify=verify,
            measure=measurement(opened, target, options, report_folder, phase_of(progress)),
            progress=progress,
        )
        report = replace(
            report, notes=(*notes, *report.notes, *conversion_hints(opened, report.bits_per_weight, options))
        )
    finally:
        opened.close()
    if upload_to is not None:
        upload(place, upload_to, progress=progress is not None)
    return replace(report, path=Path(dest).expanduser().absolute())


def dry_run(
    source: str | Path, dest: str | Path, *, progress: Progress | None = None, **settings: Unpack[ConversionKeywords]
) -> Forecast:
    """Forecast what a conversion with these settings would write and need; nothing stays written.

    Of a Hub id only config.json is fetched, and a folder may hold nothing but that. Memory and speed are measured on
    a sample of the conversion itself. Raises what `convert` raises for settings and source.
    """
    options, place = make_conversion_options(settings), resolved_destination(dest)
    kind, target_bpw = options.target(place), options.target_bpw
    notes = []
    if options.uses_text:
        # Calibration changes neither sizes nor what the conversion itself takes.
        options = replace(options, quality="rtn", calibration=None)
        notes.append("time and memory are those of the conversion alone: calibration comes on top")
    if target_bpw is not None:
        options = replace(options, target_bpw=None, calibration=None, bits=uniform_bits(target_bpw))
        notes.append("which matrix gets how many bits is measured on the model first")
    if progress:
        progress.stage("trying a sample")
    began = time.perf_counter()
    opened = outline_source(source)
    try:
        within = target_bpw and reachable_bpw(opened.config, target_bpw)
        target = make_target(opened, options, kind, place)
        opening = time.perf_counter() - began
        expected = forecast(target, place)
        expected = replace(expected, seconds=expected.seconds + opening)
        if target_bpw and within:
            expected = expected.at(within)
            notes += _target_notes(target_bpw, within)
        notes += conversion_hints(opened, expected.bits_per_weight, options)
        notes += check_tokenizer(opened)
        notes += lacking_space(place, sum(expected.files.values()))
        return replace(expected, notes=(*expected.notes, *notes))
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
        scales = _scales_of(path)
        return verify_files(path, in_channels(opened, "F32", scales).tensors())
    finally:
        opened.close()


def measure(
    folder: str | Path, source: str | Path, *, report_to: str | Path | None = None, progress: Progress | None = None
) -> Mapping[str, float]:
    """Measure a quantized folder, whoever made it, against its source on text that comes with this package.

    Returns KL divergence, perplexities and agreement; with `report_to` tables and a picture of every module are
    written into that folder as well. Raises CheckpointError, ConfigError or ConversionError.
    """
    from .quantization.methods import held_out_windows
    from .quantization.report import measured

    path, report_folder = Path(folder).expanduser(), _report_folder(report_to)
    opened = open_source(source)
    try:
        reference = in_channels(opened, "F32", _scales_of(path))
        if progress:
            progress.stage(MEASURING)
        return measured(opened, reference, path, held_out_windows(opened), report_folder, phase_of(progress))
    finally:
        opened.close()


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
    notes = _target_notes(options.target_bpw, plan.bits_per_weight) if options.target_bpw is not None else []
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


def given_settings(options: ConversionOptions) -> dict[str, object]:
    """Return the settings that were given, as JSON has them; of a file its name."""
    default = ConversionOptions()
    given = {name: value for name, value in asdict(options).items() if value != getattr(default, name)}
    return {name: printable(value.name) if isinstance(value, Path) else value for name, value in given.items()}


def _scales_of(folder: Path) -> ChannelScales | None:
    """Return the scales of a folder's channels, None where they are the original's or lost."""
    config = load_config(folder)
    return None if lost_scales(folder, config) else load_scales(folder, config)


def _target_notes(target_bpw: float, reached: float) -> list[str]:
    """Return a note where the bits per weight are less than what was requested."""
    if reached > target_bpw - 0.05:
        return []
    return [f"{reached:.2f} bits per weight are as near to the target of {target_bpw:g} as this model's matrices allow"]


def _report_folder(report_to: str | Path | None) -> Path | None:
    """Return the folder for a report, known before the work to be writable."""
    if report_to is None:
        return None
    folder = Path(report_to).expanduser()
    try:
        existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
        with tempfile.TemporaryFile(dir=existing):
            return folder
    except OSError as error:
        raise ConversionError(
            f"the report can't be written to {folder}: {error.strerror}; choose another folder"
        ) from None
