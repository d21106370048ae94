"""Markdown tables, printed and, with --write, put into docs/benchmarks.md under their heading."""

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path

DOCUMENT = Path(__file__).parents[1] / "docs" / "benchmarks.md"


def parser(doc: str | None) -> argparse.ArgumentParser:
    """Return a parser that knows --write."""
    made = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--write", action="store_true", help=f"put the table into docs/{DOCUMENT.name}")
    return made


def publish(heading: str, header: Sequence[str], rows: Sequence[Sequence[str]], note: str, write: bool) -> None:
    """Print a table and, where asked, replace the section of that heading in the document."""
    lines = [" | ".join(header), " | ".join("---" for _ in header), *(" | ".join(row) for row in rows)]
    table = "\n".join(f"| {line} |" for line in lines)
    given = ("FOLDER" if arg.startswith("/") else arg for arg in sys.argv[1:])
    command = "python -m benchmarks." + Path(sys.argv[0]).stem + "".join(f" {arg}" for arg in given)
    section = f"## {heading}\n\n{note}\n\n{table}\n\nMade by `{command.replace(' --write', '')}`.\n"
    print(section)
    if write:
        text = DOCUMENT.read_text(encoding="utf-8")
        pattern = re.compile(rf"## {re.escape(heading)}\n.*?(?=\n## |\Z)", re.DOTALL)
        text = pattern.sub(lambda _: section, text) if pattern.search(text) else text.rstrip() + "\n\n" + section
        DOCUMENT.write_text(text, encoding="utf-8")
