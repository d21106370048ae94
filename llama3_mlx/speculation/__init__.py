"""Speculative decoding: drafting tokens, choosing the length of drafts, and accepting or rejecting them."""

from .draft_length import Costs, DraftLength
from .lookup_drafter import LookupDrafter
from .prompt_lookup import PromptLookup
from .rejection_sampling import accept_sampled

__all__ = ["Costs", "DraftLength", "LookupDrafter", "PromptLookup", "accept_sampled"]
