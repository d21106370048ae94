"""What a draft head knows of one sequence: its cached entries, and the hidden states that it hasn't run over yet.

The head's cache has an entry for each position whose hidden states and whose next token are known. A draft appends
entries made from the head's own output; they are dropped again, and made anew from what the model had there.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import mlx.core as mx

from ..kv_cache import ModelCache
from ..prefix_cache.memory import HeadEntries
from .draft_length import Costs, DraftLength

if TYPE_CHECKING:
    from .eagle_drafter import EagleDrafter

# Heads are trained on drafts of five to eight tokens.
_MAX_LENGTH = 8
# While nothing is drafted: positions whose hidden states are held until the head runs over them.
_HELD = 32


class EagleSpeculator:
    """One sequence's part of an `EagleDrafter`; `watch` and `add` must be told of every position and token."""

    def __init__(
        self,
        drafter: "EagleDrafter",
        prompt: Sequence[int],
        start: int,
        costs: Costs,
        entries: HeadEntries | None = None,
    ) -> None:
        """`start` is the first position that is watched; of those before it there are `entries`, or none."""
        self._drafter = drafter
        self.tokens = list(prompt)
        self.first = start if entries is None else entries.start
        """The first position that has an entry: beyond 0 behind a cached prefix without entries of this head."""
        self.cache: ModelCache | None = drafter.head.make_cache() if entries is None else entries.cache
        """The sequence's own cache; None while it is a row of the drafter's."""
        self.last: mx.array | None = None
        """The head's output (1, 1, D) at the position before `next`."""
        self.next = start
        """The first position that has no entry."""
        self.length = DraftLength(costs, max_length=_MAX_LENGTH)
        # The hidden states (1, n, width) of the positions from `next` on, which the head hasn't run over.
        self._held: list[mx.array] = []

    def copy(self, costs: Costs) -> "EagleSpeculator":
        """Return that of another sequence that has the same tokens so far, in a cache of its own."""
        assert self.cache is not None, "a prompt isn't in a batch yet"
        twin = EagleSpeculator(self._drafter, self.tokens, self.next, costs)
        twin.cache, twin.first, twin._held, twin.last = self.cache.copy(), self.first, list(self._held), self.last
        return twin

    def watch(self, states: mx.array) -> None:
        """Take the hidden states (1, n, width) of the next positions."""
        self._held.append(states)
        if self._n_held >= _HELD:
            self._drafter.catch_up(self)

    def add(self, tokens: Sequence[int]) -> None:
        """Add the generated tokens of one forward pass."""
        self.tokens += tokens

    @property
    def _n_held(self) -> int:
        return sum(part.shape[1] for part in self._held)

    @property
    def ready(self) -> int:
        """Positions that the head can run over: their hidden states and their next tokens are known."""
        return max(0, min(self._n_held, len(self.tokens) - 1 - self.next))

    @property
    def is_current(self) -> bool:
        """Whether a draft can continue the sequence: all tokens but the latest have been run, watched and entered."""
        return self.last is not None and self.next == len(self.tokens) - 1

    def take(self, n: int) -> tuple[list[int], mx.array]:
        """Return the next tokens and the hidden states (1, n, width) of `n` ready positions, and hold them no more."""
        states = self._held[0] if len(self._held) == 1 else mx.concatenate(self._held, axis=1)
        self._held = [states[:, n:]] if n < states.shape[1] else []
        following = self.tokens[self.next + 1 : self.next + 1 + n]
        self.next += n
        return following, states[:, :n]

    def entries(self, length: int) -> HeadEntries | None:
        """Return a copy of what the head has of the first `length` tokens; None if there is nothing, or a gap."""
        self._drafter.catch_up(self)
        if self.next < length - 1 or length - 1 <= self.first:
            return None
        return HeadEntries(self._drafter.copied(self), self.first).of(length)
