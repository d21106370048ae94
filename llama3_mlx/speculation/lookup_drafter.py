"""Drafts from the text so far: prompt lookup whose acceptance rate is learned for each length of the match."""

from collections.abc import Iterable, Sequence

from .draft_length import Costs
from .prompt_lookup import PromptLookup

# Classes of match lengths by their first length, and the prior acceptance rate of the next token in each: between the
# rates measured on prompts whose answers repeat their text and on free text (SmolLM2-135M, benchmarks/prompts.py).
_CLASSES = (1, 2, 3, 4, 5, 9, 17)
_PRIOR_RATES = (0.2, 0.5, 0.6, 0.75, 0.8, 0.9, 0.95)
_CERTAINTY = 6.0
_MEMORY = 32.0
_MARGIN = 1.05


class LookupDrafter:
    """Proposes tokens of one answer from its prompt and itself.

    Get a `draft`, verify it or take a plain step, and `add` the generated tokens: the drafter sees by itself which of
    its proposals were right, also those that it held back. The acceptance rate of a token is learned for each length
    of the match that it continues; a draft of L tokens generates 1 + c1 + c1 c2 + … tokens on average, and the length
    with the most tokens per cost is chosen, none where that is no gain over a plain step.

    Passages of the prompt and repetitions of the answer itself may have different costs, `costs` and `own_costs`.

    Deterministic: the same text gives the same drafts for the same costs.
    """

    def __init__(
        self,
        tokens: Iterable[int] = (),
        *,
        costs: Costs | None = None,
        own_costs: Costs | None = None,
        max_length: int = 16,
    ) -> None:
        self.lookup = PromptLookup(tokens)
        self.costs, self.max_length = costs or Costs(), max_length
        self.own_costs = own_costs or self.costs
        self._n_prompt = len(self.lookup)
        self._right = [rate * _CERTAINTY for rate in _PRIOR_RATES]
        self._tried = [_CERTAINTY for _ in _PRIOR_RATES]
        self._expected: list[int] = []
        self._matched = 0
        self.gain = 1.0
        """Tokens per cost of the last draft, against a plain step; 1 without a draft."""

    def draft(self, max_tokens: int | None = None, sequences: int = 1) -> list[int]:
        """Return up to `max_tokens` tokens to verify; none where a plain step is the better choice.

        `sequences` are verified together, each with a draft of the same length.
        """
        limit = self.max_length if max_tokens is None else min(max_tokens, self.max_length)
        self._expected = self.lookup.draft(max(limit, 1))
        self._matched = self.lookup.matched
        return self._expected[: self._length(min(limit, len(self._expected)), sequences)]

    def add(self, tokens: Sequence[int]) -> None:
        """Add generated tokens, at once or piece by piece."""
        for token in tokens:
            if not self._expected:
                break
            right = self._expected.pop(0) == token
            self._learn(self._matched, right)
            self._matched += 1
            if not right:
                self._expected = []
        self.lookup.extend(tokens)

    def _length(self, limit: int, sequences: int) -> int:
        costs = self.costs if self.lookup.source < self._n_prompt else self.own_costs
        best, gain, reached, tokens = 0, _MARGIN, 1.0, 1.0
        for length in range(1, limit + 1):
            which = _class(self._matched + length - 1)
            reached *= self._right[which] / self._tried[which]
            tokens += reached
            if tokens / costs.of(length, sequences) > gain:
                best, gain = length, tokens / costs.of(length, sequences)
        self.gain = gain if best else 1.0
        return best

    def _learn(self, matched: int, right: bool) -> None:
        which = _class(matched)
        self._right[which] = self._right[which] * (1 - 1 / _MEMORY) + right
        self._tried[which] = self._tried[which] * (1 - 1 / _MEMORY) + 1


def _class(matched: int) -> int:
    return sum(first <= matched for first in _CLASSES) - 1
