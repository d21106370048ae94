"""What the application's logic tells its window."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from .conversations import Conversation


@dataclass
class State:
    """All that is shown beside the conversations themselves."""

    models: Sequence[str] = ()
    model: str = ""
    adapters: Sequence[str] = ()
    adapter: str = ""
    status: str = ""
    """One line: what goes on, or what went wrong and what helps."""
    details: str = ""
    """The particulars of what went wrong, empty if nothing did."""
    progress: float | None = None
    """How far a download or loading is, from 0 to 1; None if there is none."""
    writing: bool = False
    document: str = ""
    """The name of the document that the conversation is about."""
    memory: str = ""


class View(Protocol):
    """A window, or what stands for one in a test. Every method is called on the event loop's thread."""

    def show_list(self, conversations: Sequence[Conversation], current: Conversation) -> None:
        """Show the titles of all conversations."""

    def show_text(self, text: str) -> None:
        """Show the current conversation, at its end."""

    def show_state(self, state: State) -> None:
        """Show everything else."""

    def set_question(self, text: str) -> None:
        """Put a text where questions are typed."""


def rate_text(tokens_per_second: float) -> str:
    """Return how fast an answer was written, for the line below it."""
    digits = 0 if tokens_per_second >= 10 else 1
    return f"{tokens_per_second:.{digits}f} tokens a second"
