"""Semgrep on a user's own rules, as a program. Source: https://semgrep.dev/docs/cli-reference.

Whatever it doesn't say that it scanned counts as not scanned: some versions skip every file and report success.
"""

import json
import shutil
import subprocess
import tempfile
from pathlib import Path

from ...errors import MissingExtraError, RequestError
from ...json_types import JsonMapping, JsonObject
from .result import Finding, Report, Severity

_SUFFIXES = {
    "python": "py",
    "javascript": "js",
    "typescript": "ts",
    "csharp": "cs",
    "rust": "rs",
    "kotlin": "kt",
}
_SEVERITIES: dict[str, Severity] = {"ERROR": "high", "WARNING": "medium", "INFO": "low"}
_TIMEOUT_S = 300


class SemgrepEngine:
    """Scans with the rules of a file or folder."""

    def __init__(self, rules: Path) -> None:
        """Raises MissingExtraError where semgrep isn't installed, RequestError where there are no rules."""
        program = shutil.which("semgrep")
        if program is None:
            raise MissingExtraError("semgrep's rules need semgrep: pip install semgrep")
        if not rules.exists():
            raise RequestError(f"there are no semgrep rules at {rules}")
        self._program, self._rules = program, rules

    def scan(self, code: str, language: str) -> Report:
        """Return what the rules find."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, f"code.{_SUFFIXES.get(language, language)}")
            path.write_text(code, encoding="utf-8", errors="replace", newline="")
            command = [self._program, "scan", "--config", str(self._rules.absolute()), "--json", "--metrics=off"]
            command += ["--disable-version-check", "--no-git-ignore", "--disable-nosem", str(path)]
            try:
                done = subprocess.run(
                    command, capture_output=True, text=True, check=False, timeout=_TIMEOUT_S, cwd=folder
                )
            except (OSError, subprocess.TimeoutExpired) as error:
                return Report(reason=f"semgrep failed: {error!s:.100}")
            return _report(done.returncode, done.stdout, path)


def _report(code: int, output: str, path: Path) -> Report:
    try:
        said: JsonObject = json.loads(output)
        findings = tuple(_finding(result) for result in said["results"])
        scanned = {Path(name).name for name in said["paths"]["scanned"]}
        errors = said["errors"]
    except (ValueError, KeyError, TypeError):
        return Report(reason=f"semgrep ended with {code} and no report that can be read")
    if code not in (0, 1):
        return Report(findings, f"semgrep ended with {code}")
    if errors:
        return Report(findings, f"semgrep: {errors[0].get('message', errors[0])!s:.100}")
    return Report(findings, None if path.name in scanned else "semgrep didn't scan the code")


def _finding(result: JsonMapping) -> Finding:
    extra = result["extra"]
    cwe = extra.get("metadata", {}).get("cwe", "")
    digits = "".join(filter(str.isdigit, str(cwe[0] if isinstance(cwe, list) and cwe else cwe).partition(":")[0]))
    severity = _SEVERITIES.get(extra.get("severity", ""), "medium")
    message = " ".join(extra.get("message", "").split())
    rule = result["check_id"].rpartition(".")[2]
    return Finding(rule, int(digits) if digits else None, severity, message, result["start"]["line"], "semgrep")
