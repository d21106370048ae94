"""Speculation: several tokens a forward pass. What drafts, how long, and what stands; none knows the others."""

from .adaptive import Costs, DraftLength
from .drafter import LookupDrafter
from .lookup import PromptLookup
from .verify import accept_sampled

__all__ = ["Costs", "DraftLength", "LookupDrafter", "PromptLookup", "accept_sampled"]
