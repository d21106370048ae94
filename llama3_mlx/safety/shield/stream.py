"""Answers whose fenced code is scanned while they are written: notes behind insecure code, or notes in its place."""

from typing import Literal, Protocol

from .fences import Opening, lines_of, may_open, opening_of
from .result import Scan

Mode = Literal["annotate", "block"]
_SHOWN = 10


class Scanner(Protocol):
    """What scans code; a `Shield`."""

    def scan(self, code: str, language: str | None) -> Scan:
        """Scan code of a language."""
        ...


class ShieldedText:
    """Text in pieces: `add` returns what can be shown of it by now, `finish` the rest.

    Code that is clean and text around it come out as they went in. To annotate, a note follows each block that is
    insecure or unknown. To block, a note takes the place of an insecure block: code is held back until it is scanned.
    """

    def __init__(self, shield: Scanner, mode: Mode) -> None:
        self._shield, self._blocks = shield, mode == "block"
        self.scans: list[Scan] = []
        self.removed = False
        """Whether the last call left a block out."""
        self._line = ""
        self._shown = 0
        self._opening: Opening | None = None
        self._code: list[str] = []
        self._block: list[str] = []

    def add(self, text: str) -> str:
        """Take the next piece."""
        self.removed = False
        out = []
        for part in lines_of(text):
            self._line += part
            if part.endswith("\n"):
                out.append(self._ended_line())
        out.append(self._unfinished_line())
        return "".join(out)

    def finish(self) -> str:
        """Return what is left; a block that isn't closed ends here."""
        self.removed = False
        line, shown = self._line, self._shown
        self._line, self._shown = "", 0
        if self._opening is None:
            opening = opening_of(line)
            if opening is None:
                return line[shown:]
            self._opening, self._block = opening, [line]
            return ("" if self._blocks else line[shown:]) + self._judged("\n")
        if not self._opening.closes(line):
            self._code.append(self._opening.content(line))
        self._block.append(line)
        return ("" if self._blocks else line[shown:]) + self._judged("\n")

    def _ended_line(self) -> str:
        line, shown = self._line, self._shown
        self._line, self._shown = "", 0
        if self._opening is None:
            self._opening = opening_of(line)
            if self._opening is None:
                return line[shown:]
            self._code, self._block = [], [line]
            return "" if self._blocks else line[shown:]
        self._block.append(line)
        if self._opening.closes(line):
            return ("" if self._blocks else line[shown:]) + self._judged("")
        self._code.append(self._opening.content(line))
        return "" if self._blocks else line[shown:]

    def _unfinished_line(self) -> str:
        """Return what can be shown of a line that goes on: nothing if it may open a block that may be left out."""
        held = self._blocks and (self._opening is not None or may_open(self._line))
        if held:
            return ""
        out, self._shown = self._line[self._shown :], len(self._line)
        return out

    def _judged(self, before_note: str) -> str:
        """Return what follows from the scan of the block that has ended."""
        opening = self._opening
        assert opening is not None, "a block ends that has begun"
        scan = self._shield.scan("".join(self._code), opening.language)
        self.scans.append(scan)
        block = "".join(self._block)
        self._opening, self._code, self._block = None, [], []
        quoted = opening.indent if ">" in opening.indent else " " * len(opening.indent)
        if self._blocks and scan.status == "insecure":
            self.removed = True
            return f"{quoted}[{_findings(scan, 'Code left out by the code shield')}]\n"
        shown = block if self._blocks else ""
        if scan.status == "clean":
            return shown
        note = _findings(scan, "Code shield") if scan.findings else f"Code shield: not checked ({scan.reason})"
        return f"{shown}{before_note}\n{quoted}> {note}\n\n"


def _findings(scan: Scan, head: str) -> str:
    shown = "; ".join(finding.text for finding in scan.findings[:_SHOWN])
    more = len(scan.findings) - _SHOWN
    return f"{head}: {shown}{f'; and {more} more' if more > 0 else ''}"
