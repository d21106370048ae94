"""`llama3-mlx convert`: weights in; an MLX folder, a folder for transformers or a GGUF file out."""

import argparse
import json
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..convert.options import ConversionOptions
from ..convert.targets.destination import partial_folder
from .flags import add_flags, given_values

if TYPE_CHECKING:
    from ..convert import ConversionReport, Forecast
    from .progress import ConversionProgress


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `convert`."""
    parser.add_argument(
        "source", metavar="SOURCE", help="folder or Hub id of safetensors, folder of Meta's .pth files, or a .gguf file"
    )
    parser.add_argument("dest", metavar="DEST", help="folder, or .gguf file, to write; it appears once complete")
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
    parser.add_argument("--json", action="store_true", help="print the report as one JSON object")


def run(args: argparse.Namespace) -> int:
    """Convert and report."""
    settings = given_values(args, ConversionOptions)
    if args.dry_run:
        return _dry_run(args, settings)
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
    for warning in () if args.json else report.warnings:
        sys.stderr.write(f"note: {warning}\n")
    took_s = time.perf_counter() - began
    sys.stdout.write(json.dumps(report_values(report)) + "\n" if args.json else _report(report, took_s))
    if args.report and not args.json:
        sys.stdout.write(f"tables and plot: {args.report}\n")
    sys.stdout.flush()
    if args.upload:
        upload(report.path, args.upload, progress=True)
        sys.stdout.write("" if args.json else f"uploaded to {args.upload}\n")
    talks = (report.path / "tokenizer.json").exists() or (report.path / "tokenizer.model").exists()
    if not args.json and talks and shutil.which("llama3-mlx"):
        sys.stderr.write(f"try it: llama3-mlx chat -m {_short(report.path)}\n")
    return 0


@contextmanager
def stoppable(dest: str, progress: "ConversionProgress") -> Iterator[None]:
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
        if partial_folder(Path(dest).expanduser().absolute()).exists():
            sys.stderr.write("stopped; the same command resumes from there\n")
        raise
    finally:
        signal.signal(signal.SIGINT, before)


def _dry_run(args: argparse.Namespace, settings: dict[str, Any]) -> int:
    from ..convert import dry_run
    from ..convert.forecasting import forecast_values
    from .progress import ConversionProgress

    with ConversionProgress() as progress:
        expected = dry_run(args.source, args.dest, progress=progress, **settings)
    beside = [f"--{name}" for name in ("verify", "report", "upload") if getattr(args, name)]
    if beside:
        notes = (*expected.warnings, f"time and memory of {', '.join(beside)} are not included")
        expected = replace(expected, warnings=notes)
    sys.stdout.write(json.dumps(forecast_values(expected)) + "\n" if args.json else _forecast(expected))
    return 0


def _report(report: "ConversionReport", took_s: float) -> str:
    resumed = f", {report.resumed_modules} of its tensors from an earlier run" if report.resumed_modules else ""
    lines = [
        f"{_short(report.path)}: {report.parameters:,} parameters at {report.bits_per_weight:.2f} bits, "
        f"{report.total_bytes / 1e9:.2f} GB, in {took_s:.1f} s{resumed}"
    ]
    if report.quality:
        quality = report.quality
        lines.append(
            f"against the source: KL {quality['kl']:.4f} nats a token, perplexity {quality['perplexity']:.2f} "
            f"(source {quality['source_perplexity']:.2f}), same most likely token in {quality['top1_agreement']:.1%}"
        )
    if report.verification and report.verification.worst:
        worst = report.verification.worst
        lines.append(
            f"verified {report.verification.tensors} tensors; the largest relative error is "
            f"{worst.relative_error:.4f}, of {worst.tensor} ({worst.stored_as})"
        )
    return "".join(line + "\n" for line in lines)


def _forecast(expected: "Forecast") -> str:
    lines = [f"{name}: {size / 1e9:.2f} GB" for name, size in expected.files.items()]
    lines += [
        f"{expected.parameters:,} parameters at {expected.bits_per_weight:.2f} bits, "
        f"{expected.total_bytes / 1e9:.2f} GB",
        f"peak memory about {expected.peak_memory_bytes / 1e9:.2f} GB, about {expected.seconds:.0f} s on this machine",
        *(f"note: {warning}" for warning in expected.warnings),
    ]
    return "".join(line + "\n" for line in lines)


def _short(folder: Path) -> str:
    """Return the folder as a user would type it from here."""
    try:
        return str(folder.relative_to(Path.cwd()))
    except ValueError:
        return str(folder)
