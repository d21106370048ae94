"""Moderation with Llama Guard 2 and 3: prompts, scores and verdicts on the messages of a dialog."""

from .guard import Guard
from .policy import Category, Policy
from .verdict import Verdict

__all__ = ["Category", "Guard", "Policy", "Verdict"]
