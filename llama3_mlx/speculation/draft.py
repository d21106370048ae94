"""A draft, and the sampling of its tokens from what a draft model or a draft head says."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from ..generation.completion import DraftCounts
from ..generation.sampling import Sampling, pick, probabilities, uniforms

LOOKUP, HEAD, MODEL = "prompt lookup", "draft head", "draft model"
SamplingPoint = tuple[Sampling, int, int]
"""How a token is sampled: the settings, the seed, and its number in the answer."""


@dataclass(frozen=True)
class Draft:
    """Tokens that may come next, and the distributions (n, V) they were sampled from where they were sampled."""

    tokens: Sequence[int] = ()
    proposal: mx.array | None = None
    source: str = LOOKUP

    def cut(self, n: int) -> "Draft":
        """Return the first `n` tokens of it."""
        return Draft(self.tokens[:n], None if self.proposal is None else self.proposal[:n], self.source)


class DraftTally:
    """Counts what becomes of the drafts of one source, by position in the draft."""

    def __init__(self) -> None:
        self._drafted: list[int] = []
        self._accepted: list[int] = []

    def add(self, drafted: int, accepted: int) -> None:
        """Count a draft of so many tokens, of which the first `accepted` were accepted."""
        more = [0] * (drafted - len(self._drafted))
        self._drafted += more
        self._accepted += more
        for at in range(drafted):
            self._drafted[at] += 1
            self._accepted[at] += at < accepted

    def counts(self, source: str) -> DraftCounts:
        """Return the sums."""
        return DraftCounts(source, tuple(self._drafted), tuple(self._accepted))


def sample_drafted(
    logits: mx.array,
    points: Sequence[SamplingPoint],
    *,
    ids: mx.array | None = None,
    widen: Callable[[mx.array], mx.array] = lambda logits: logits,
) -> tuple[mx.array, list[mx.array | None]]:
    """Return a token of each row of logits, (N,) int32, and the distributions (1, V) that they were drawn from.

    A greedy token has none. Of a reduced vocabulary, `ids` are the whole one's and `widen` brings logits to that.
    """
    if all(sampling.greedy for sampling, _, _ in points):
        best = mx.argmax(logits, axis=-1)
        return (best if ids is None else ids[best]).astype(mx.int32), [None] * len(points)
    logits, groups = widen(logits), defaultdict(list)
    for row, (sampling, _, _) in enumerate(points):
        groups[sampling].append(row)
    if len(groups) == 1:
        return _sample(logits, points)
    # Sampled group by group, then brought back into the order of the rows.
    parts = [_sample(logits[mx.array(rows)], [points[row] for row in rows]) for rows in groups.values()]
    order = [row for rows in groups.values() for row in rows]
    proposals = [proposal for _, group in parts for proposal in group]
    places = np.argsort(order)
    return mx.concatenate([tokens for tokens, _ in parts])[mx.array(places)], [proposals[at] for at in places]


def _sample(logits: mx.array, points: Sequence[SamplingPoint]) -> tuple[mx.array, list[mx.array | None]]:
    """Sample from logits (N, V) by equal settings."""
    sampling = points[0][0]
    if sampling.greedy:
        return mx.argmax(logits, axis=-1).astype(mx.int32), [None] * len(points)
    numbers = mx.array([uniforms(seed, step) for _, seed, step in points], mx.float32)
    proposal = probabilities(sampling, logits, numbers)
    tokens = pick(proposal, numbers[:, 3:4]).astype(mx.int32)
    return tokens, [proposal[row : row + 1] for row in range(len(points))]
