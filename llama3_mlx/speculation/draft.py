"""A draft, and the sampling of its tokens from what a draft model or a draft head says."""

from collections.abc import Sequence
from dataclasses import dataclass

import mlx.core as mx

from ..generation.sampling import Sampling, pick, probabilities, uniforms


@dataclass(frozen=True)
class Draft:
    """Tokens that may come next, and the distributions (n, V) they were sampled from where they were sampled."""

    tokens: Sequence[int] = ()
    proposal: mx.array | None = None

    def cut(self, n: int) -> "Draft":
        """Return the first `n` tokens of it."""
        return Draft(self.tokens[:n], None if self.proposal is None else self.proposal[:n])


def sample_drafted(logits: mx.array, sampling: Sampling, seed: int, step: int) -> tuple[mx.array, mx.array | None]:
    """Return a token (1,) int32 by logits (1, V), and the distribution (1, V) it was drawn from; None if greedy."""
    if sampling.greedy:
        return mx.argmax(logits, axis=-1).astype(mx.int32), None
    numbers = uniforms(seed, step)
    proposal = probabilities(sampling, logits, mx.array([numbers], mx.float32))
    return pick(proposal, mx.array([[numbers[3]]], mx.float32)).astype(mx.int32), proposal
