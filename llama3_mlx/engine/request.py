"""What the engine is given: a prompt, and one or several answers requested to it."""

import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..generation.options import GenerationOptions
from .reply import Reply

if TYPE_CHECKING:
    from ..structured.grammar import Grammar
    from .sequence import DecodingSequence

ProgressCallback = Callable[[int, int], None]
_numbers = itertools.count()


@dataclass(frozen=True)
class AnswerRequest:
    """One requested answer. `max_tokens` is the most tokens that it may get: what context and memory leave at most."""

    options: GenerationOptions
    reply: Reply
    max_tokens: int
    constraint: "Grammar | None" = None
    stop_ids: frozenset[int] = frozenset()
    """Tokens that end this answer, beside the model's own."""
    shown: frozenset[str] = frozenset()
    """Control tokens whose text is part of the answer's text."""


@dataclass(eq=False)
class Request:
    """A prompt and the answers requested to it, which share its prefill."""

    prompt: list[int]
    answers: Sequence[AnswerRequest]
    adapter: str | None = None
    priority: int = 0
    progress: ProgressCallback | None = None
    """Called with (prompt tokens done, all) on the engine's thread: before, during and after the prefill."""
    bulk: bool = False
    """Nobody follows the answers while they are generated: the whole batch's time counts, not each answer's."""
    resumed: "DecodingSequence | None" = None
    """The preempted sequence that this request recomputes: `prompt` then ends before its latest token."""
    number: int = field(default_factory=lambda: next(_numbers))
    began_s: float = field(default_factory=time.perf_counter)

    @property
    def order(self) -> tuple[int, int]:
        """Sort key: higher priority first, then first come."""
        return -self.priority, self.number

    @property
    def is_over(self) -> bool:
        """Whether all answers are cancelled, or the time limit of every one has passed."""
        timeout_s = max((answer.options.timeout_s or float("inf")) for answer in self.answers)
        cancelled = all(answer.reply.cancelled for answer in self.answers)
        return cancelled or time.perf_counter() - self.began_s > timeout_s

    def length_after(self, n: int) -> int:
        """Return the positions that the longest answer needs after up to `n` generated tokens."""
        return len(self.prompt) + min(n, max(answer.max_tokens for answer in self.answers))

    @property
    def wants_prompt_logprobs(self) -> bool:
        """Whether the whole prompt has to be run for the log-probabilities of its tokens."""
        return self.resumed is None and any(answer.options.prompt_logprobs is not None for answer in self.answers)

    def fail(self, error: BaseException) -> None:
        """End all answers with an error."""
        for answer in self.answers:
            answer.reply.deliver(error)
