"""Measuring what a model is worth: perplexity, distance from another model, benchmarks."""

from .estimates import Estimate, Spread
from .perplexity import Comparison, Perplexity, compare_predictions, measure_perplexity
from .windows import PerplexityOptions

__all__ = [
    "Comparison",
    "Estimate",
    "Perplexity",
    "PerplexityOptions",
    "Spread",
    "compare_predictions",
    "measure_perplexity",
]
