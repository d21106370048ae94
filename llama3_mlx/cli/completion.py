"""`llama3-mlx completion`: the script that completes commands, flags and files in a shell."""

import argparse
import sys

from ..errors import MissingExtraError

_SHELLS = ("bash", "zsh", "fish", "tcsh")


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `completion`."""
    parser.add_argument("shell", choices=_SHELLS, help="shell that sources the script")


def run(args: argparse.Namespace) -> int:
    """Print the script."""
    try:
        import shtab
    except ImportError:
        raise MissingExtraError("completion needs shtab: pip install 'llama3-mlx[completion]'") from None
    if args.shell not in shtab.SUPPORTED_SHELLS:
        raise MissingExtraError(f"{args.shell} needs a newer shtab: pip install --upgrade 'llama3-mlx[completion]'")
    from . import make_parser

    sys.stdout.write(shtab.complete(make_parser()[0], shell=args.shell) + "\n")
    return 0
