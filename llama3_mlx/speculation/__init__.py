"""Speculation: several tokens a forward pass. What drafts, how long, and what stands; none knows the others."""

from .adaptive import Costs, DraftLength
from .drafter import LookupDrafter
from .lookup import PromptLookup
from .stats import SpeculationStats
from .verify import accept_greedy, accept_sampled

__all__ = [
    "Costs",
    "DraftLength",
    "LookupDrafter",
    "PromptLookup",
    "SpeculationStats",
    "accept_greedy",
    "accept_sampled",
]
