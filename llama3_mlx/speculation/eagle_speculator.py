"""Drafts the tokens of one sequence with a draft head, from the hidden states of the passes that the model runs anyway.

The head's cache has an entry for each position whose hidden states and whose next token are known. A draft appends
entries made from the head's own output; they are dropped again, and made anew from what the model had there.
"""

from collections.abc import Sequence
from typing import cast

import mlx.core as mx
import mlx.nn as nn

from ..generation.sampling import Sampling
from ..kv_cache import ModelCache
from .draft import Draft, sample_drafted
from .draft_length import Costs, DraftLength
from .eagle_head import EagleHead

# Heads are trained on drafts of five to eight tokens.
_MAX_LENGTH = 8
# While nothing is drafted: positions whose hidden states are held until the head runs over them.
_HELD = 32


class EagleSpeculator:
    """Drafts with a draft head. `watch` and `add` must be told of every position and token."""

    def __init__(self, head: EagleHead, embedding: nn.Module, prompt: Sequence[int], start: int, costs: Costs) -> None:
        """`embedding` is the target's; `start` the first position that is watched, beyond 0 behind a cached prefix."""
        self._head = head
        self._embedding = head.embed_tokens if head.config.own_embedding else embedding
        self._tokens = list(prompt)
        self._cache: ModelCache = head.make_cache()
        # The hidden states (1, n, width) of the positions from `_next` on, which the head hasn't run.
        self._held: list[mx.array] = []
        self._next = start
        self._last: mx.array | None = None
        """The head's output (1, 1, D) at the position before `_next`."""
        self._length = DraftLength(costs, max_length=_MAX_LENGTH)

    def copy(self) -> "EagleSpeculator":
        """Return the speculator of another sequence that has the same tokens so far."""
        twin = EagleSpeculator(self._head, self._embedding, self._tokens, self._next, self._length.costs)
        twin._cache, twin._held, twin._last = self._cache.copy(), list(self._held), self._last
        return twin

    def is_likely(self, pending: int) -> bool:
        """Return whether drafting is switched on."""
        return self._length.length > 0

    def watch(self, states: mx.array) -> None:
        """Take the hidden states (1, n, width) of the next positions."""
        self._held.append(states)
        if sum(part.shape[1] for part in self._held) >= _HELD:
            self._catch_up()
            mx.async_eval(self._cache.arrays, [] if self._last is None else self._last)

    def add(self, tokens: Sequence[int]) -> None:
        """Add the generated tokens of one forward pass."""
        self._tokens += tokens
        self._length.skip()

    def record(self, drafted: int, accepted: int) -> None:
        """Adapt the length of drafts."""
        self._length.record(drafted, accepted)

    def draft(self, max_tokens: int, sampling: Sampling, seed: int, step: int) -> Draft:
        """Return what the head generates; the device computes the whole draft before the host reads it."""
        n = min(max_tokens, self._length.length)
        self._catch_up()
        # Every token but the latest has been run by the model, and so watched.
        if n < 1 or self._last is None or self._next != len(self._tokens) - 1:
            return Draft()
        known, h = list(self._cache.lengths), self._last
        sampled: list[mx.array] = []
        proposals: list[mx.array] = []
        for index in range(n):
            if index:
                h = self._head(self._embedding(sampled[-1][:, None]), h, self._cache)
            token, proposal = self._sample(self._head.head(h[:, -1]), sampling, seed, step + index)
            sampled.append(token)
            if proposal is not None:
                proposals.append(proposal)
        self._cache.trim(known[0])
        tokens = cast(list[int], mx.concatenate(sampled).tolist())
        return Draft(tokens, mx.concatenate(proposals) if proposals else None)

    def _sample(self, logits: mx.array, sampling: Sampling, seed: int, step: int) -> tuple[mx.array, mx.array | None]:
        """Sample one of the target's tokens (1,) by logits over the reduced vocabulary."""
        ids = self._head.token_ids
        if ids is not None and sampling.greedy:
            return ids[mx.argmax(logits, axis=-1)], None
        return sample_drafted(self._head.over_vocabulary(logits), sampling, seed, step)

    def _catch_up(self) -> None:
        """Run the head over the positions whose hidden states and next tokens are known."""
        held = sum(part.shape[1] for part in self._held)
        n = min(held, len(self._tokens) - 1 - self._next)
        if n < 1:
            return
        states = self._held[0] if len(self._held) == 1 else mx.concatenate(self._held, axis=1)
        following = mx.array([self._tokens[self._next + 1 : self._next + 1 + n]], mx.int32)
        h = self._head(self._embedding(following), self._head.fuse(states[:, :n]), self._cache)
        self._held = [states[:, n:]] if n < held else []
        self._last, self._next = h[:, -1:], self._next + n
