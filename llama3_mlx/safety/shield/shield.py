"""The code shield: scans code for known weaknesses, and says what it couldn't scan."""

import importlib.util
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

from ...errors import DataError, MissingExtraError
from .bandit_engine import BanditEngine
from .fences import Fence, fences_of
from .languages import LANGUAGES, MARKDOWN, language_named, language_of
from .options import ShieldOptions
from .result import SEVERITIES, Finding, Report, Scan
from .semgrep_engine import SemgrepEngine
from .structural import StructuralEngine, known_keys


class Shield:
    """Scans code with the rules of its language, Python with bandit's tests too. Threads may share it."""

    def __init__(self, options: ShieldOptions | None = None) -> None:
        """Raises MissingExtraError where an engine isn't installed, RequestError where there are no such rules."""
        options = options or ShieldOptions()
        missing = [name for name in ("ast_grep_py", "bandit") if importlib.util.find_spec(name) is None]
        if missing:
            raise MissingExtraError.of(f"the shield needs {' and '.join(missing)}", "shield")
        self._counts = SEVERITIES[SEVERITIES.index(options.severity) :]
        self._semgrep = None if options.semgrep_rules is None else SemgrepEngine(options.semgrep_rules)

    def scan(self, code: str, language: str | None) -> Scan:
        """Scan code of a language, by its name or an alias such as py; one without rules gives unknown."""
        known = language_named(language) if language else None
        if not code.strip():
            return Scan("clean", known or language)
        if known is None:
            return self._scan_other(code, language)
        reports = [_structural(known).scan(code)]
        if known == "python":
            reports.insert(0, _bandit().scan(code))
        if self._semgrep is not None:
            reports.append(self._semgrep.scan(code, known))
        return self._judged(known, reports)

    def _scan_other(self, code: str, language: str | None) -> Scan:
        """Scan what has no rules: for keys, and the blocks of code that it may hold itself, as Markdown does."""
        reason = f"there are no rules for {language[:40]}" if language else "its language isn't named"
        reports = [Report(tuple(known_keys(code)), f"not checked: {reason}")]
        blocks = self.scan_fenced(code)
        for fence, scan in blocks:
            moved = tuple(replace(finding, line=finding.line + fence.line) for finding in scan.findings)
            reports.append(Report(moved, scan.reason))
        # Of Markdown, the blocks are all the code.
        if blocks and (language or "").lower() in MARKDOWN:
            reports[0] = Report(reports[0].findings)
        return self._judged(language, reports)

    def scan_fenced(self, text: str) -> list[tuple[Fence, Scan]]:
        """Scan each fenced block of code of a Markdown text, in the language that its fence names."""
        return [(fence, self.scan(fence.code, fence.language)) for fence in fences_of(text)]

    def scan_file(self, path: Path, *, language: str | None = None) -> list[tuple[int, Scan]]:
        """Scan a file in the language of its suffix, or each block of code of a Markdown file.

        Returns:
            Each scan with the line (from 1) at which its code begins in the file.

        Raises:
            DataError: The file can't be read.
        """
        try:
            text = path.read_text(encoding="utf-8", errors="replace")
        except OSError as error:
            raise DataError(f"can't read {path}: {error.strerror}") from None
        if language is None and path.suffix.lower().removeprefix(".") in MARKDOWN:
            return [(fence.line + 1, scan) for fence, scan in self.scan_fenced(text)]
        return [(1, self.scan(text, language or language_of(path) or path.suffix.removeprefix(".")))]

    def _judged(self, language: str | None, reports: Sequence[Report]) -> Scan:
        findings = tuple(_merged(report.findings for report in reports))
        counting = tuple(finding for finding in findings if finding.severity in self._counts)
        reason = next((report.reason for report in reports if report.reason), None)
        status = "insecure" if counting else "unknown" if reason else "clean"
        return Scan(status, language, counting, reason)  # type: ignore[arg-type]


def defects() -> dict[str, str]:
    """Return the languages that can't be checked here, each with the reason; empty where all engines work."""
    found = {language: defect for language in LANGUAGES if (defect := _structural(language).defect)}
    broken = _bandit().defect
    return {**found, "python": broken} if broken else found


@cache
def _structural(language: str) -> StructuralEngine:
    return StructuralEngine(language)


@cache
def _bandit() -> BanditEngine:
    return BanditEngine()


def _merged(reports: Iterable[Sequence[Finding]]) -> list[Finding]:
    """Return the findings by line; of two engines that see one weakness at one line, the first one's."""
    merged: list[Finding] = []
    for findings in reports:
        taken = {(finding.line, finding.cwe) for finding in merged if finding.cwe}
        merged += [finding for finding in findings if (finding.line, finding.cwe) not in taken]
    return sorted(merged, key=lambda finding: finding.line)
