"""Drafts from the text so far, as long as each is likely to pay: a lookup whose success is learnt by match length."""

from collections.abc import Iterable, Sequence

from .draft_length import Costs
from .prompt_lookup import PromptLookup

# Classes of match lengths by their first length, and the chance that the next token is right in each before anything
# is known: between the shares measured on prompts whose answers repeat their text and on free text (SmolLM2-135M,
# benchmarks/prompts.py).
_CLASSES = (1, 2, 3, 4, 5, 9, 17)
_CHANCES = (0.2, 0.5, 0.6, 0.75, 0.8, 0.9, 0.95)
_CERTAINTY = 6.0
_MEMORY = 32.0
_MARGIN = 1.05


class LookupDrafter:
    """Proposes tokens of one answer from its prompt and itself.

    Ask for a `draft`, verify it or take a plain step, and `add` what was written: the drafter sees by itself what came
    true, also of drafts that it held back. The chance that a token is right is learnt for each length of the match
    that it continues; a draft of L tokens writes 1 + c1 + c1 c2 + … tokens on average, and the length of most tokens
    for its costs is taken, none where that is no gain over a plain step.

    Passages of the prompt and repetitions of the answer itself may have different costs, `costs` and `own_costs`.

    Free of clocks and chance: the same text gives the same drafts for the same costs.
    """

    def __init__(
        self,
        tokens: Iterable[int] = (),
        *,
        costs: Costs | None = None,
        own_costs: Costs | None = None,
        longest: int = 16,
    ) -> None:
        self.lookup = PromptLookup(tokens)
        self.costs, self.longest = costs or Costs(), longest
        self.own_costs = own_costs or self.costs
        self._n_prompt = len(self.lookup)
        self._right = [chance * _CERTAINTY for chance in _CHANCES]
        self._tried = [_CERTAINTY for _ in _CHANCES]
        self._expected: list[int] = []
        self._matched = 0

    def draft(self, most: int | None = None) -> list[int]:
        """Return up to `most` tokens to verify; none where a plain step is the better choice."""
        most = self.longest if most is None else min(most, self.longest)
        self._expected = self.lookup.draft(max(most, 1))
        self._matched = self.lookup.matched
        return self._expected[: self._length(min(most, len(self._expected)))]

    def add(self, tokens: Sequence[int]) -> None:
        """Take what was written, at once or piece by piece."""
        for token in tokens:
            if not self._expected:
                break
            right = self._expected.pop(0) == token
            self._learn(self._matched, right)
            self._matched += 1
            if not right:
                self._expected = []
        self.lookup.extend(tokens)

    def copy(self) -> "LookupDrafter":
        """Return an independent drafter of the same text and experience."""
        twin = LookupDrafter(costs=self.costs, own_costs=self.own_costs, longest=self.longest)
        twin.lookup, twin._n_prompt = self.lookup.copy(), self._n_prompt
        twin._right, twin._tried = list(self._right), list(self._tried)
        twin._expected, twin._matched = list(self._expected), self._matched
        return twin

    def _length(self, most: int) -> int:
        costs = self.costs if self.lookup.source < self._n_prompt else self.own_costs
        best, gain, reached, tokens = 0, _MARGIN, 1.0, 1.0
        for length in range(1, most + 1):
            which = _class(self._matched + length - 1)
            reached *= self._right[which] / self._tried[which]
            tokens += reached
            if tokens / costs.of(length) > gain:
                best, gain = length, tokens / costs.of(length)
        return best

    def _learn(self, matched: int, right: bool) -> None:
        which = _class(matched)
        self._right[which] = self._right[which] * (1 - 1 / _MEMORY) + right
        self._tried[which] = self._tried[which] * (1 - 1 / _MEMORY) + 1


def _class(matched: int) -> int:
    return sum(first <= matched for first in _CLASSES) - 1
