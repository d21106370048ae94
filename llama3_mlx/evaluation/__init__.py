"""Measuring what a model is worth: perplexity, distance from another model, benchmarks."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .estimates import Estimate, Spread
    from .evaluating import evaluate
    from .figures import Difference, Evaluation, Figure, Outcome
    from .options import EvalOptions
    from .perplexity import Comparison, Perplexity, compare_predictions, measure_perplexity
    from .report import write_evaluation
    from .windows import PerplexityOptions

_HOMES = {
    "Comparison": "perplexity",
    "Difference": "figures",
    "Estimate": "estimates",
    "EvalOptions": "options",
    "Evaluation": "figures",
    "Figure": "figures",
    "Outcome": "figures",
    "Perplexity": "perplexity",
    "PerplexityOptions": "windows",
    "Spread": "estimates",
    "compare_predictions": "perplexity",
    "evaluate": "evaluating",
    "measure_perplexity": "perplexity",
    "write_evaluation": "report",
}

__all__ = [
    "Comparison",
    "Difference",
    "Estimate",
    "EvalOptions",
    "Evaluation",
    "Figure",
    "Outcome",
    "Perplexity",
    "PerplexityOptions",
    "Spread",
    "compare_predictions",
    "evaluate",
    "measure_perplexity",
    "write_evaluation",
]


# Type checkers would take any name at all for one of the package's.
if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        """Import a public name when it is first asked for, so that the command line starts without MLX."""
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
