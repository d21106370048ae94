"""Bandit on Python, in process. Source: https://bandit.readthedocs.io."""

import gc
import logging
import textwrap
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

from .result import Finding, Report, Severity

_LOG = logging.getLogger("bandit")
# Bandit's tests keep their settings in one place for all, and its log is one for all.
_LOCK = threading.Lock()
_PROBE = "import hashlib\neval(input())\nhashlib.md5(b'')\n"


class BanditEngine:
    """Scans Python with all of bandit's tests; comments such as `# nosec` silence nothing."""

    def __init__(self) -> None:
        self._defect: str | None = None
        self._probed = False
        self._tests: Any = None

    @property
    def defect(self) -> str | None:
        """Why bandit can't be trusted here, None if it finds a known weakness."""
        if not self._probed:
            report = self._run(_PROBE)
            if {"B307", "B324"} - {finding.rule for finding in report.findings}:
                self._defect = f"bandit is broken: {report.reason or 'it finds no known weakness'}"
            self._probed = True
        return self._defect

    def scan(self, code: str) -> Report:
        """Return what bandit finds."""
        return Report(reason=self.defect) if self.defect else self._run(textwrap.dedent(code))

    def _run(self, code: str) -> Report:
        with _LOCK, warnings.catch_warnings(), _quiet(), _uncollected():
            warnings.simplefilter("ignore")
            try:
                from .bandit_walk import issues, load_tests

                self._tests = self._tests or load_tests()
                found, failures = issues(code.encode("utf-8", "replace"), self._tests)
            except SyntaxError:
                return Report(reason="bandit: syntax error while parsing AST from file")
            except Exception as error:
                return Report(reason=f"bandit failed: {error!s:.100}")
        return Report(tuple(map(_finding, found)), f"bandit: {failures[0]:.100}" if failures else None)


@contextmanager
def _quiet() -> Iterator[None]:
    """Have bandit's log say nothing meanwhile."""
    propagates, level = _LOG.propagate, _LOG.level
    _LOG.propagate = False
    _LOG.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        _LOG.propagate = propagates
        _LOG.setLevel(level)


@contextmanager
def _uncollected() -> Iterator[None]:
    """Look for no garbage meanwhile: a syntax tree has many objects and leaves none, and looking takes a third."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _finding(issue: Any) -> Finding:
    severity = cast(Severity, issue.severity.lower()) if issue.severity != "UNDEFINED" else "low"
    return Finding(issue.test_id, issue.cwe.id or None, severity, issue.text.splitlines()[0], issue.lineno, "bandit")
