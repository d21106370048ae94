"""`llama3-mlx data check`: show training data as the model will see it."""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..errors import DataError
from ..finetune.settings import TrainSettings
from ..units import count_text
from .flags import positive
from .model_choice import MODEL_HELP, choose_model, has_default
from .terminal import show, tell

_BAR = 40


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the subcommands of `data`."""
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    check = actions.add_parser("check", help="count examples and show their target tokens")
    check.add_argument("data", metavar="DATA", nargs="+", help="as for train")
    check.add_argument("-m", "--model", metavar="MODEL", help=f"{MODEL_HELP}; without one the data are checked alone")
    check.add_argument(
        "--max-length", type=positive, default=2048, metavar="N", help="truncate longer examples (%(default)s)"
    )
    check.add_argument("--train-on", choices=("auto", "assistant", "all"), default="auto", help="target tokens")
    check.add_argument("--layout", default="auto", metavar="NAME", help="layout of the data")
    check.add_argument("--plain", action="store_true", help="without the model's chat template")
    check.add_argument(
        "--columns", action="append", metavar="NAME=COLUMN,…", help="columns of the data by the names that layouts have"
    )
    check.add_argument("--skip-bad", action="store_true", help="leave out examples that can't be used")
    check.add_argument("--parse-special", action="store_true", help="take control tokens in trusted texts as such")
    check.add_argument("--show", type=int, default=3, metavar="N", help="examples to show (%(default)s)")
    check.add_argument("--json", action="store_true", help="print the counts as one JSON object")


def run(args: argparse.Namespace) -> int:
    """Check the data and show them."""
    refuse_missing(args.data)
    settings = TrainSettings(
        max_length=args.max_length,
        train_on=args.train_on,
        layout=args.layout,
        plain=args.plain,
        columns=args.columns or (),
        skip_bad=args.skip_bad,
        parse_special=args.parse_special,
    )
    return _check_tokens(args, settings) if args.model or has_default() else _check_texts(args, settings)


def _check_texts(args: argparse.Namespace, settings: TrainSettings) -> int:
    """Check what can be checked without a model, and say what one would add."""
    from ..finetune.data.statistics import plain_facts

    facts, notes = plain_facts(args.data, settings)
    for note in notes:
        tell(note)
    if args.json:
        sys.stdout.write(json.dumps(asdict(facts)) + "\n")
    else:
        show(
            f"{count_text(facts.examples, 'example')} ({facts.kind}), {count_text(facts.characters, 'character')}\n"
            f"lengths {facts.shortest:,} to {facts.longest:,} characters, median {facts.median:,}"
        )
    tell("-m MODEL adds lengths in tokens, what is cut and which tokens are targets")
    return 0


def _check_tokens(args: argparse.Namespace, settings: TrainSettings) -> int:
    """Check the data as the model will see them."""
    from ..finetune.data.statistics import data_facts, read_examples
    from ..finetune.sft import make_encoder
    from ..finetune.training.job import load_text_side

    text = load_text_side(str(choose_model(args.model)))
    examples, notes = read_examples(args.data, make_encoder(text, settings), settings)
    facts = data_facts(examples)
    for note in notes:
        tell(note)
    if args.json:
        sys.stdout.write(json.dumps(asdict(facts)) + "\n")
        return 0
    _print_facts(facts, args.max_length)
    for example in examples[: args.show]:
        _print_example(text.tokenizer, example)
    return 0


def refuse_missing(sources: Sequence[str]) -> None:
    """Raise DataError for a file or folder that isn't there, before any model is looked for."""
    for source in sources:
        path = Path(source.rpartition(":")[0] if ".py:" in source else source).expanduser()
        if not path.exists() and (path.suffix or source.startswith((".", "/", "~")) or source.count("/") != 1):
            raise DataError(f"there is no file or folder {path}")


def _print_facts(facts: Any, max_length: int) -> None:
    write = sys.stdout.write
    examples, tokens = count_text(facts.examples, "example"), count_text(facts.tokens, "token")
    write(f"{examples}, {tokens}, {facts.target_tokens:,} of them targets\n")
    write(f"lengths {facts.shortest} to {facts.longest}, median {facts.median}\n")
    if facts.cut:
        write(f"{facts.cut:,} longer than {max_length} are cut; {facts.nothing_left:,} have no target tokens left\n")
    most = max(count for _, count in facts.histogram)
    for limit, count in facts.histogram:
        write(f"  up to {limit:>6}: {'█' * round(_BAR * count / most)} {count:,}\n")
    write(f"rows are {facts.packed_share:.0%} full when packed, {facts.padded_share:.0%} in padded batches of four\n")


def _print_example(tokenizer: Any, example: Any) -> None:
    from rich.console import Console
    from rich.text import Text

    from ..finetune.data.statistics import marked_pieces

    console = Console()
    text = Text()
    for piece, target in marked_pieces(tokenizer, example):
        # Where there is no color, brackets mark target tokens.
        shown = f"⟦{piece}⟧" if target and not console.is_terminal else piece
        text.append(shown, style="bold green" if target else "dim")
    console.print(f"\n{example.where}", style="bold", soft_wrap=True, markup=False, highlight=False)
    console.print(text, soft_wrap=True)
