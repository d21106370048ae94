"""What the engine is asked: a prompt, and one or several answers to it."""

import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ..generation.options import GenerationOptions
from .reply import Reply

_numbers = itertools.count()


@dataclass(frozen=True)
class AnswerRequest:
    """One answer that is wanted. `limit` is the greatest number of tokens that context and memory leave."""

    options: GenerationOptions
    reply: Reply
    limit: int
    constraint: Any = None
    """A compiled grammar, or None."""
    stop_ids: frozenset[int] = frozenset()
    """Tokens that end this answer, beside the model's own."""
    shown: frozenset[str] = frozenset()
    """Control tokens that are written out in the text."""


@dataclass(eq=False)
class Request:
    """A prompt and the answers wanted to it, which share its prefill."""

    prompt: list[int]
    asks: Sequence[AnswerRequest]
    adapter: str | None = None
    priority: int = 0
    progress: Any = None
    """Called with (tokens done, tokens in all) while the prompt is run."""
    bulk: bool = False
    """Nobody follows the answers while they are written: the whole batch's time counts, not each answer's."""
    resumed: Any = None
    """The row that goes on with this request, after it had to make room: `prompt` then ends before its latest token."""
    number: int = field(default_factory=lambda: next(_numbers))
    began_s: float = field(default_factory=time.perf_counter)

    @property
    def order(self) -> tuple[int, int]:
        """Sort key: higher priority first, then first come."""
        return -self.priority, self.number

    @property
    def cancelled(self) -> bool:
        """Whether nobody waits for any of the answers."""
        return all(ask.reply.cancelled for ask in self.asks)

    def length_after(self, more: int) -> int:
        """Positions that the longest answer needs when up to `more` tokens have been written."""
        return len(self.prompt) + min(more, max(ask.limit for ask in self.asks))

    @property
    def wants_prompt_logprobs(self) -> bool:
        """Whether the prompt's tokens have to be run and scored."""
        return self.resumed is None and any(ask.options.prompt_logprobs is not None for ask in self.asks)

    def fail(self, error: BaseException) -> None:
        """End all answers with an error."""
        for ask in self.asks:
            ask.reply.deliver(error)
