"""Bandit on Python, in process. Source: https://bandit.readthedocs.io."""

import logging
import tempfile
import textwrap
import threading
import warnings
from pathlib import Path
from typing import Any, cast

from .result import Finding, Report, Severity

_LOG = logging.getLogger("bandit")
# Bandit says through one logger for all what it failed at.
_LOCK = threading.Lock()
_PROBE = "import hashlib\neval(input())\nhashlib.md5(b'')\n"


class BanditEngine:
    """Scans Python with all of bandit's tests; comments such as `# nosec` silence nothing."""

    def __init__(self) -> None:
        self._defect: str | None = None
        self._probed = False

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
        with _LOCK, tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            path = Path(folder, "code.py")
            path.write_text(code, encoding="utf-8", errors="replace", newline="")
            errors = _Errors()
            propagates, level = _LOG.propagate, _LOG.level
            _LOG.addHandler(errors)
            _LOG.propagate = False
            _LOG.setLevel(logging.ERROR)
            try:
                manager = _scanned(path)
            except Exception as error:
                return Report(reason=f"bandit failed: {error!s:.100}")
            finally:
                _LOG.removeHandler(errors)
                _LOG.propagate = propagates
                _LOG.setLevel(level)
        findings = tuple(map(_finding, manager.get_issue_list()))
        skipped = [reason for _, reason in manager.get_skipped()]
        missing = [] if skipped or len(manager.files_list) == 1 else ["the code was not scanned"]
        problems = [*skipped, *missing, *errors.messages]
        return Report(findings, f"bandit: {problems[0]:.100}" if problems else None)


class _Errors(logging.Handler):
    """Keeps what bandit calls an error: a test of it that failed on the code says so nowhere else."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage().splitlines()[0])


def _scanned(path: Path) -> Any:
    from bandit.core.config import BanditConfig
    from bandit.core.manager import BanditManager

    manager = BanditManager(BanditConfig(), "file", ignore_nosec=True)
    manager.discover_files([str(path)])
    manager.run_tests()
    return manager


def _finding(issue: Any) -> Finding:
    severity = cast(Severity, issue.severity.lower()) if issue.severity != "UNDEFINED" else "low"
    return Finding(issue.test_id, issue.cwe.id or None, severity, issue.text.splitlines()[0], issue.lineno, "bandit")
