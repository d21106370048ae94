"""`llama3-mlx convert`: weights in; an MLX folder, a folder for transformers or a GGUF file out."""

import argparse
import json
import shlex
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..convert.options import ConversionOptions
from ..convert.targets.destination import partial_folder, resolved_destination
from ..errors import ConversionError
from ..files import printable
from ..json_types import JsonMapping
from ..library.home import models_folder
from ..library.resolver import destination
from ..units import size_text
from .flags import Values, add_flags, given_values
from .model_choice import write_notes
from .terminal import show

if TYPE_CHECKING:
    from ..convert import ConversionReport, Forecast, Verification
    from .progress import ConversionProgress


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `convert`."""
    parser.add_argument(
        "source",
        metavar="SOURCE",
        help="model or EAGLE-3 head: folder, name, Hub id, folder of Meta's .pth files, or .gguf file",
    )
    parser.add_argument(
        "dest",
        metavar="DEST",
        help="folder or .gguf file to write, once complete; a bare name: a model in the home folder",
    )
    add_flags(parser, ConversionOptions)
    parser.add_argument("--force", action="store_true", help="replace DEST once the conversion is done")
    parser.add_argument(
        "--verify",
        action="store_true",
        help="re-read the result: checksums, each module's error against the source",
    )
    parser.add_argument("--dry-run", action="store_true", help="only forecast sizes, peak memory and time")
    parser.add_argument("--upload", metavar="REPO", help="upload the result to this Hub repository afterwards")
    parser.add_argument(
        "--report",
        metavar="FOLDER",
        type=Path,
        help="measure every module and the whole model against the source; writes tables and a plot to FOLDER",
    )
    parser.add_argument(
        "--existing", action="store_true", help="convert nothing: verify and report on DEST, which is there already"
    )
    parser.add_argument("--json", action="store_true", help="print the report as one JSON object")


def run(args: argparse.Namespace) -> int:
    """Convert and report."""
    settings = given_values(args, ConversionOptions)
    args.dest = destination(args.dest)
    if args.dry_run:
        return _dry_run(args, settings)
    if args.existing:
        return _existing(args, settings)
    from ..convert import convert, upload
    from ..convert.pipeline import report_values
    from ..convert.targets.upload import check_login
    from .progress import ConversionProgress

    if args.upload:
        check_login(args.upload)
    began = time.perf_counter()
    with ConversionProgress() as progress, stoppable(args.dest, progress):
        report = convert(
            args.source,
            args.dest,
            force=args.force,
            verify=args.verify,
            report_to=args.report,
            progress=progress,
            **settings,
        )
    write_notes(() if args.json else report.notes)
    took_s = time.perf_counter() - began
    show(json.dumps(report_values(report)) if args.json else _report(report, took_s))
    if args.report and not args.json:
        sys.stdout.write(f"tables and plot: {printable(args.report)}\n")
    if args.upload:
        upload(report.path, args.upload, progress=True)
        sys.stdout.write("" if args.json else f"uploaded to {args.upload}\n")
    talks = (report.path / "tokenizer.json").exists() or (report.path / "tokenizer.model").exists()
    if not args.json and talks and shutil.which("llama3-mlx"):
        sys.stderr.write(f"try it: llama3-mlx chat -m {shlex.quote(_name(report.path))}\n")
    return 0


@contextmanager
def stoppable(dest: Path, progress: "ConversionProgress") -> Iterator[None]:
    """Answer Ctrl-C at once, though what is being worked on ends first; a second one ends the process."""

    def stop(*_: object) -> None:
        # Nothing is lost: whatever is finished has been noted on the disk.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        progress.stop()
        sys.stderr.write("\nstopping; Ctrl-C again stops at once\n")
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, stop)
    try:
        yield
    except KeyboardInterrupt:
        if partial_folder(resolved_destination(dest)).exists():
            sys.stderr.write("stopped; the same command resumes from there\n")
        raise
    finally:
        signal.signal(signal.SIGINT, before)


def _dry_run(args: argparse.Namespace, settings: Values) -> int:
    from ..convert import dry_run
    from ..convert.forecasting import forecast_values
    from .progress import ConversionProgress

    with ConversionProgress() as progress:
        expected = dry_run(args.source, args.dest, progress=progress, **settings)
    beside = [f"--{name}" for name in ("verify", "report", "upload") if getattr(args, name)]
    if beside:
        expected = replace(
            expected, notes=(*expected.notes, f"time and memory of {', '.join(beside)} are not included")
        )
    write_notes(() if args.json else expected.notes)
    show(json.dumps(forecast_values(expected)) if args.json else _forecast(expected))
    return 0


def _report(report: "ConversionReport", took_s: float) -> str:
    resumed = f", {report.resumed_modules} of its tensors from an earlier run" if report.resumed_modules else ""
    lines = [
        f"{_short(report.path)}: {report.parameters:,} parameters at {report.bits_per_weight:.2f} bits, "
        f"{size_text(report.total_bytes)} of weights, in {took_s:.1f} s{resumed}"
    ]
    lines += _found(report.quality, report.verification)
    return "\n".join(lines)


def _found(quality: JsonMapping | None, verification: "Verification | None") -> list[str]:
    """Return a line for what was measured, and one for what was verified."""
    lines = []
    if quality:
        lines.append(
            f"against the source: KL {quality['kl']:.4f} nats a token, perplexity {quality['perplexity']:.2f} "
            f"(source {quality['source_perplexity']:.2f}), same most likely token in {quality['top1_agreement']:.1%}"
        )
    if verification and verification.worst:
        worst = verification.worst
        lines.append(
            f"verified {verification.tensors} tensors; the largest relative error is "
            f"{worst.relative_error:.4f}, of {worst.tensor} ({worst.stored_as})"
        )
    return lines


def _existing(args: argparse.Namespace, settings: Values) -> int:
    """Verify and measure a folder that was converted before."""
    from ..convert import measure, verify
    from .progress import ConversionProgress

    conflicting = [f"--{name.replace('_', '-')}" for name in (*settings, *(["upload"] if args.upload else []))]
    if conflicting or not (args.verify or args.report):
        raise ConversionError(
            f"--existing converts nothing: leave out {', '.join(conflicting)}"
            if conflicting
            else "--existing verifies and reports: add --verify, --report FOLDER or both"
        )
    with ConversionProgress() as progress:
        verification = verify(args.dest, args.source) if args.verify else None
        quality = measure(args.dest, args.source, report_to=args.report, progress=progress) if args.report else None
    if args.json:
        found = {"verification": asdict(verification) if verification else None, "quality": quality}
        sys.stdout.write(json.dumps(found) + "\n")
        return 0
    for line in _found(quality, verification):
        show(line)
    if args.report:
        sys.stdout.write(f"tables and plot: {printable(args.report)}\n")
    return 0


def _forecast(expected: "Forecast") -> str:
    lines = [f"{name}: {size_text(size)}" for name, size in expected.files.items()]
    lines += [
        f"{expected.parameters:,} parameters at {expected.bits_per_weight:.2f} bits, "
        f"{size_text(expected.total_bytes)} of weights",
        f"peak memory about {size_text(expected.peak_memory_bytes)}, about {expected.seconds:.0f} s on this machine",
    ]
    return "\n".join(lines)


def _name(folder: Path) -> str:
    """Return what commands call a model: in the home folder its name."""
    return folder.name if folder.parent == models_folder().absolute() else _short(folder)


def _short(folder: Path) -> str:
    """Return the folder as a user would type it from here."""
    try:
        return printable(folder.relative_to(Path.cwd()))
    except ValueError:
        return printable(folder)
