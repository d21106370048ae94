"""One idea a file, each run as `python -m examples.recipes.NAME`. docs/recipes.md lists them."""

import argparse
import contextlib
import shutil
import textwrap
from collections.abc import Callable, Iterator

from llama3_mlx import Llama3MLXError

# What scripts/demo makes: small enough for any machine, too small for good answers.
SMALL = "SmolLM2-135M-Instruct-4bit"


def arguments(doc: str | None) -> argparse.ArgumentParser:
    """Return a parser with the flag that all recipes have, whose help is the recipe's docstring."""
    description = described(doc or "")
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=SMALL, help="folder, name or Hub id (%(default)s, which scripts/demo makes)")
    return parser


def described(doc: str) -> str:
    """Return a docstring whose paragraphs have the terminal's width; what is indented, as commands are, stays."""
    width = shutil.get_terminal_size().columns - 2
    parts = doc.strip().split("\n\n")
    return "\n\n".join(part if part.startswith(" ") else textwrap.fill(part, width) for part in parts)


def messages() -> Iterator[str]:
    """Yield what is typed, until a line is empty or Ctrl-D ends it."""
    with contextlib.suppress(EOFError):
        while text := input("> ").strip():
            yield text


def run(main: Callable[[], None]) -> None:
    """Run a recipe; a model or a file that can't be had ends it with one line."""
    try:
        main()
    except (Llama3MLXError, OSError) as error:
        raise SystemExit(f"error: {error}") from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None
