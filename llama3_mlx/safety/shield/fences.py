"""Fenced blocks of code in Markdown. Source: https://spec.commonmark.org/0.31.2/#fenced-code-blocks."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

_OPENING = re.compile(
    r"(?P<indent>[ \t]*(?:(?:>[ \t]*|(?:[-*+]|\d{1,9}[.)])[ \t]+))*)(?P<fence>`{3,}|~{3,})(?P<info>.*)\Z", re.S
)


@dataclass(frozen=True)
class Fence:
    """A block of code: the line (from 1) of its opening fence, the language that it names, the code in it."""

    line: int
    language: str | None
    code: str


@dataclass(frozen=True)
class Opening:
    """The line that opens a block."""

    indent: str
    fence: str
    language: str | None

    def closes(self, line: str) -> bool:
        """Say whether a line closes the block."""
        rest = self.content(line).rstrip(" \t\r\n")
        fence = rest.lstrip(" ")
        # By four spaces more than its block a line is indented as code, whatever it holds.
        is_code = len(rest) - len(fence) > 3
        return not is_code and len(fence) >= len(self.fence) and fence == self.fence[0] * len(fence)

    def content(self, line: str) -> str:
        """Return a line of the block without what indents all of it."""
        depth = self.indent.count(">")
        if depth:
            return re.sub(rf"^(?:[ \t]*>[ \t]?){{1,{depth}}}", "", line)
        room = len(self.indent)
        return line[:room].lstrip(" \t") + line[room:]


def lines_of(text: str) -> list[str]:
    """Return the lines of a text with their line feeds."""
    return re.findall(r"[^\n]*\n|[^\n]+", text)


def opening_of(line: str) -> Opening | None:
    """Return the fence that a line opens, None if it opens none."""
    match = _OPENING.match(line.rstrip("\r\n"))
    if match is None or (match["fence"][0] == "`" and "`" in match["info"]):
        return None
    word = re.match(r"\s*\{?\.?([\w+#.-]*)", match["info"])
    return Opening(match["indent"], match["fence"], (word[1] if word else "").lower() or None)


def may_open(beginning: str) -> bool:
    """Say whether a line that begins so may still open a block."""
    rest = re.sub(r"^[ \t]*(?:>[ \t]*|(?:[-*+]|\d{1,9}[.)])(?:[ \t]+|\Z))*", "", beginning)
    return rest[:3] in ("", "`", "``", "```", "~", "~~", "~~~") or bool(re.fullmatch(r"\d{1,9}[.)]?", rest))


def fences_of(text: str) -> Iterator[Fence]:
    """Yield the blocks of a text; one that isn't closed goes on to the end."""
    opening, start, lines = None, 0, list[str]()
    for number, line in enumerate(lines_of(text), start=1):
        if opening is None:
            opening, start, lines = opening_of(line), number, []
        elif opening.closes(line):
            yield Fence(start, opening.language, "".join(lines))
            opening = None
        else:
            lines.append(opening.content(line))
    if opening is not None:
        yield Fence(start, opening.language, "".join(lines))
