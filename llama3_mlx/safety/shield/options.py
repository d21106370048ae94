"""Settings of the code shield: each declared once, with its help; flags come from here."""

from dataclasses import dataclass
from pathlib import Path

from ...settings import setting, validate
from .result import SEVERITIES


@dataclass(frozen=True, kw_only=True)
class ShieldOptions:
    """What counts as a weakness, and which rules beside the shield's own are run."""

    severity: str = setting("medium", "from which severity on a weakness counts", choices=SEVERITIES)
    semgrep_rules: Path | None = setting(
        None, "file or folder of your own semgrep rules to run, too (semgrep must be installed)"
    )

    def __post_init__(self) -> None:
        validate(self)
