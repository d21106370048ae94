"""`convert`, `dry_run`, `verify` and `measure`: from options to a source, a target and a run."""

import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Unpack

from ..checkpoint.folder import load_config
from ..errors import ConversionError
from ..files import printable
from ..model.channel_scales import ChannelScales, load_scales, lost_scales
from .draft_head import convert_head
from .forecasting import Forecast, forecast
from .hints import conversion_hints
from .keywords import ConversionKeywords
from .opening import find_draft_head, open_source, outline_source
from .options import ConversionOptions, make_conversion_options
from .phases import MEASURING, phase_of
from .pipeline import ConversionReport, Progress, run
from .plan import reachable_bpw, uniform_bits
from .quantization.equalized_source import in_channels
from .sources.tokenizer_check import check_tokenizer
from .target_choice import make_target, measurement, target_notes
from .targets.destination import check_destination, lacking_space, resolved_destination
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
        source: Folder or Hub id of Hugging Face safetensors or of an EAGLE-3 draft head, folder of Meta's own files, or
            GGUF file.
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
    head = find_draft_head(source, progress=progress is not None)
    if head is not None:
        if verify or report_to is not None or upload_to is not None:
            raise ConversionError(f"{head} is a draft head: verify, report and upload are for models")
        check_destination(place, head, force=force)
        report = convert_head(head, place, options, source=str(source))
        return replace(report, path=Path(dest).expanduser().absolute())
    opened = open_source(source, progress=progress is not None)
    try:
        check_destination(place, opened.location, force=force, single_file=kind == "gguf")
        notes = check_tokenizer(opened)
        if options.target_bpw is not None:
            reachable_bpw(opened.config, options.target_bpw)
            if progress:
                progress.stage("measuring which modules need more bits")
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
    began = time.perf_counter()
    opened = outline_source(source)
    try:
        if progress:
            progress.stage("trying a sample")
        within = target_bpw and reachable_bpw(opened.config, target_bpw)
        target = make_target(opened, options, kind, place)
        opening = time.perf_counter() - began
        expected = forecast(target, place)
        expected = replace(expected, seconds=expected.seconds + opening)
        if target_bpw and within:
            expected = expected.at(within)
            notes += target_notes(target_bpw, within)
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


def given_settings(options: ConversionOptions) -> dict[str, object]:
    """Return the settings that were given, as JSON has them; of a file its name."""
    default = ConversionOptions()
    given = {name: value for name, value in asdict(options).items() if value != getattr(default, name)}
    return {name: printable(value.name) if isinstance(value, Path) else value for name, value in given.items()}


def _scales_of(folder: Path) -> ChannelScales | None:
    """Return the scales of a folder's channels, None where they are the original's or lost."""
    config = load_config(folder)
    return None if lost_scales(folder, config) else load_scales(folder, config)


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
