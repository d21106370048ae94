"""`llama3-mlx fuse`: put an adapter into a model's weights."""

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

from ..library.resolver import destination, resolve_adapter
from ..units import size_text
from .model_choice import BASE_HELP, choose_model
from .terminal import show, tell


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `fuse`."""
    parser.add_argument("-m", "--model", metavar="MODEL", help=BASE_HELP)
    parser.add_argument("-a", "--adapter", metavar="ADAPTER", required=True, help="folder, name or Hub id")
    parser.add_argument(
        "-o", "--out", metavar="DEST", required=True, help="model folder to write; a bare name: in the home folder"
    )
    parser.add_argument(
        "--bits",
        default="auto",
        metavar="N",
        help="how the fused matrices of a quantized base are stored: auto keeps 95%% of the adapter's effect in as few "
        "bytes as that takes; a number of bits; float16 and the like (default: auto)",
    )
    parser.add_argument(
        "--text",
        metavar="FILE",
        help="text to measure the effect on (default: the adapter's data where they are, else a built-in text)",
    )
    parser.add_argument("--force", action="store_true", help="replace DEST")
    parser.add_argument("--json", action="store_true", help="print the report as one JSON object")


def run(args: argparse.Namespace) -> int:
    """Fuse and report how much of the effect remains."""
    from ..finetune.fusing.fuse import KEPT, fuse

    adapter = resolve_adapter(args.adapter)
    texts = [Path(args.text).expanduser().read_text(encoding="utf-8")] if args.text else []
    base = choose_model(args.model, adapter=adapter)
    report = fuse(base, adapter, destination(args.out), bits=args.bits, texts=texts, force=args.force)
    if args.json:
        sys.stdout.write(json.dumps({**asdict(report), "folder": str(report.folder)}) + "\n")
        return 0
    forms = ", ".join(f"{count} in {form}" for form, count in report.forms.items())
    show(
        f"{report.folder}: keeps {report.kept:.1%} of the adapter's effect on {report.measured_on}; "
        f"{size_text(report.bytes_after)} of weights, the base has {size_text(report.bytes_before)} "
        f"(fused layers: {forms})"
    )
    if report.kept < KEPT:
        tell("rounding loses more than 5% of the adapter's effect: --bits auto keeps it")
    elif report.bytes_after > 1.2 * report.bytes_before:
        tell("base and adapter unfused (--adapter) do the same in less memory")
    return 0
