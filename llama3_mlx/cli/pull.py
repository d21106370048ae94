"""`llama3-mlx pull`: download a model from the Hub, to be served and used by its id."""

import argparse
import json
import sys

from ..library.hub import resolve_model


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `pull`."""
    parser.add_argument("model", metavar="OWNER/NAME", help="Hub id, with @REVISION if need be")
    parser.add_argument("--json", action="store_true", help="print the folder as JSON")


def run(args: argparse.Namespace) -> int:
    """Download the model and print its folder."""
    folder = resolve_model(args.model, progress=True)
    sys.stdout.write(json.dumps({"model": args.model, "folder": str(folder)}) if args.json else str(folder))
    sys.stdout.write("\n")
    return 0
