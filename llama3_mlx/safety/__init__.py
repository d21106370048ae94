"""Moderation with Llama Guard 2 and 3, prompts, scores and verdicts; in `shield`, weaknesses of code."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .guard import Guard
    from .policy import Category, Policy
    from .verdict import Verdict

_HOMES = {"Category": "policy", "Guard": "guard", "Policy": "policy", "Verdict": "verdict"}
__all__ = ["Category", "Guard", "Policy", "Verdict"]

# Type checkers would take any name at all for one of the package's.
if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        """Import a public name when it is first asked for, so that the shield works without MLX."""
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
