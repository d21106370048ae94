"""What a scan of code says."""

from dataclasses import asdict, dataclass
from typing import Literal

from ...json_types import JsonObject

Severity = Literal["low", "medium", "high"]
SEVERITIES: tuple[Severity, ...] = ("low", "medium", "high")
Status = Literal["clean", "insecure", "unknown"]


@dataclass(frozen=True)
class Finding:
    """A weakness at a line (from 1) of the code, its number in https://cwe.mitre.org, the engine that found it."""

    rule: str
    cwe: int | None
    severity: Severity
    message: str
    line: int
    engine: str

    @property
    def text(self) -> str:
        """The finding in one line."""
        number = f"CWE-{self.cwe}" if self.cwe else self.rule
        return f"line {self.line}: {number}, {self.severity}: {self.message}"


@dataclass(frozen=True)
class Report:
    """What one engine found, and why it may have missed something: `reason` is None after a complete scan."""

    findings: tuple[Finding, ...] = ()
    reason: str | None = None


@dataclass(frozen=True)
class Scan:
    """The outcome for one piece of code.

    It is clean only if all of it was parsed and scanned with rules for its language; `reason` says what wasn't.
    """

    status: Status
    language: str | None
    findings: tuple[Finding, ...] = ()
    reason: str | None = None

    def as_json(self) -> JsonObject:
        """Return the scan as an object of JSON."""
        return {**asdict(self), "findings": [asdict(finding) for finding in self.findings]}
