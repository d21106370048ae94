"""The flag `--shield` of commands that write answers: their fenced code is scanned while it is written."""

import argparse
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..safety.shield.stream import ShieldedText

MakeShielded = Callable[[], "ShieldedText"]


def add_shield_flag(parser: argparse.ArgumentParser) -> None:
    """Add the flag."""
    parser.add_argument(
        "--shield",
        choices=("annotate", "block"),
        help="scan fenced code of answers for weaknesses: annotate adds notes, block leaves insecure code out",
    )


def shield_of(args: argparse.Namespace) -> "MakeShielded | None":
    """Return what makes the text of one answer; None without the flag. Raises MissingExtraError without the engines."""
    if args.shield is None:
        return None
    from ..safety.shield import Shield
    from ..safety.shield.stream import ShieldedText

    shield = Shield()
    return lambda: ShieldedText(shield, args.shield)


def shielded(text: str, make: "MakeShielded | None") -> str:
    """Return a whole answer with its code scanned, unchanged where there is no shield."""
    if make is None:
        return text
    answer = make()
    return answer.add(text) + answer.finish()
