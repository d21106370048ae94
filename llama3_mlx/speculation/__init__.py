"""Speculation: several tokens a forward pass. What drafts, how long, and what stands; none knows the others."""

from .draft_length import Costs, DraftLength
from .lookup_drafter import LookupDrafter
from .prompt_lookup import PromptLookup
from .rejection_sampling import accept_sampled

__all__ = ["Costs", "DraftLength", "LookupDrafter", "PromptLookup", "accept_sampled"]
