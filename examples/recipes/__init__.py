"""One idea a file, each run as `python -m examples.recipes.NAME`. docs/recipes.md lists them."""

import argparse
import contextlib
from collections.abc import Iterator

# What scripts/demo makes: small enough for any machine, too small for good answers.
SMALL = "SmolLM2-135M-Instruct-4bit"


def arguments(doc: str | None) -> argparse.ArgumentParser:
    """Return a parser with the flag that all recipes have, whose help is the recipe's docstring."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=SMALL, help="folder, name or Hub id (%(default)s)")
    return parser


def messages() -> Iterator[str]:
    """Yield what is typed, until a line is empty or Ctrl-D ends it."""
    with contextlib.suppress(EOFError):
        while text := input("> ").strip():
            yield text
