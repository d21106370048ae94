"""Code shield: known weaknesses in code of eleven languages, found in process by ast-grep and bandit."""

from .fences import Fence
from .result import Finding, Scan
from .shield import Shield, defects

__all__ = ["Fence", "Finding", "Scan", "Shield", "defects"]
