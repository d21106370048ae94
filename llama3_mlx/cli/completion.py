"""`llama3-mlx completion`: the script that completes commands, flags and files in a shell."""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

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
        raise MissingExtraError.of("completion needs shtab", "completion") from None
    if args.shell not in shtab.SUPPORTED_SHELLS:
        raise MissingExtraError.of(f"{args.shell} needs a newer shtab", "completion")
    from . import make_parser

    parser = make_parser()[0]
    for argument in _of_any_text(parser):
        # shtab's name for it. Else its script keeps the shell from completing files, as it would do by itself.
        vars(argument)["complete"] = shtab.FILE
    sys.stdout.write(shtab.complete(parser, shell=args.shell) + "\n")
    return 0


def _of_any_text(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """The arguments, those of commands too, that may be a file's or folder's name."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield from _of_any_text(command)
        elif action.nargs != 0 and action.choices is None and action.type in (None, str, Path):
            yield action
