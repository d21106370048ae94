"""Reads what a docstring says about the whole and about each argument, in Google's layout.

Source of the layout: https://google.github.io/styleguide/pyguide.html (3.8.3 and 3.8.4).
"""

import inspect
import re

_SECTION = re.compile(
    r"(Args|Arguments|Parameters|Attributes|Keyword Args|Returns?|Yields?|Raises|Examples?|Notes?|See Also|Source):(.*)"
)
_LISTS = ("Args", "Arguments", "Parameters", "Attributes", "Keyword Args")
_ENTRY = re.compile(r"\*{0,2}(\w+)\s*(?:\([^()]*(?:\([^()]*\)[^()]*)*\))?\s*:\s*(.*)")


def read_docstring(documented: object) -> tuple[str, dict[str, str]]:
    """Return the description before the first section, and the descriptions of arguments by name."""
    lines = inspect.cleandoc(getattr(documented, "__doc__", None) or "").splitlines()
    description: list[str] = []
    entries: list[str] = []
    section = None
    for line in lines:
        heading = _SECTION.fullmatch(line.rstrip())
        if heading:
            section = heading[1]
        elif section is None:
            description.append(line.rstrip())
        elif section in _LISTS and line.strip():
            entries.append(line)
    return "\n".join(description).strip(), _arguments(entries)


def _arguments(lines: list[str]) -> dict[str, str]:
    """Return the entries' texts by name; a line that is indented deeper goes on with the entry before it."""
    depth = min((_indent(line) for line in lines), default=0)
    texts: dict[str, str] = {}
    name = None
    for line in lines:
        entry = _ENTRY.fullmatch(line.strip()) if _indent(line) == depth else None
        if entry:
            name, texts[entry[1]] = entry[1], entry[2]
        elif name is not None:
            texts[name] = f"{texts[name]} {line.strip()}".strip()
    return texts


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())
