"""`llama3-mlx convert`: weights in, an MLX folder out."""

import argparse
import json
import shutil
import sys
import time
from pathlib import Path

from ..quantization import AFFINE_BITS, AFFINE_GROUP_SIZES, FIXED_MODES


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `convert`."""
    parser.add_argument("source", metavar="SOURCE", help="folder or Hub id of safetensors, or a .gguf file")
    parser.add_argument("dest", metavar="DEST", help="folder to write; it appears when it is whole")
    parser.add_argument("-b", "--bits", type=int, choices=AFFINE_BITS, help="bits of a weight (default: not quantised)")
    parser.add_argument(
        "-g", "--group-size", type=int, choices=AFFINE_GROUP_SIZES, help="weights that share a scale (default: 64)"
    )
    parser.add_argument(
        "--mode", choices=("affine", *FIXED_MODES), default="affine", help="number format (%(default)s)"
    )
    parser.add_argument(
        "--dtype", choices=("float16", "bfloat16", "float32"), help="of what isn't quantised (default: the source's)"
    )
    parser.add_argument("--force", action="store_true", help="replace DEST once the conversion is done")
    parser.add_argument("--json", action="store_true", help="print the report as one JSON object")


def run(args: argparse.Namespace) -> int:
    """Convert and report."""
    from ..convert import convert
    from ..convert.pipeline import report_values
    from .progress import ConversionProgress

    began = time.perf_counter()
    with ConversionProgress() as progress:
        report = convert(
            args.source,
            args.dest,
            bits=args.bits,
            group_size=args.group_size,
            mode=args.mode,
            dtype=args.dtype,
            force=args.force,
            progress=progress,
        )
    if args.json:
        sys.stdout.write(json.dumps(report_values(report)) + "\n")
        return 0
    resumed = f", {report.resumed_modules} of its tensors from an earlier run" if report.resumed_modules else ""
    sys.stdout.write(
        f"{report.folder}: {report.parameters:,} parameters at {report.bits_per_weight:.2f} bits, "
        f"{report.total_bytes / 1e9:.2f} GB, in {time.perf_counter() - began:.1f} s{resumed}\n"
    )
    if shutil.which("llama3-mlx"):
        sys.stderr.write(f"try it: llama3-mlx chat -m {_short(report.folder)}\n")
    return 0


def _short(folder: Path) -> str:
    """Return the folder as a user would type it from here."""
    try:
        return str(folder.relative_to(Path.cwd()))
    except ValueError:
        return str(folder)
