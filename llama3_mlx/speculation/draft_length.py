"""How many tokens to draft, from how many were accepted: long drafts where they pay, none where they don't."""

from collections.abc import Callable
from dataclasses import dataclass

_MEMORY = 12.0
_MARGIN = 1.02


@dataclass(frozen=True)
class Costs:
    """Costs of speculation, in plain decode steps of the same sequences.

    `verify` is what each further position adds to a forward pass over one, at most where passes are `measured`; `draft`
    is what it costs to draft a token (a step of the draft model; nothing for a lookup), `fixed` what a verifying pass
    costs beyond a plain step at any length.
    """

    verify: float = 0.05
    draft: float = 0.0
    fixed: float = 0.0
    measured: Callable[[int], float] | None = None
    """Cost of a pass over so many positions, in passes over one."""

    def of(self, drafted: int, sequences: int = 1) -> float:
        """Return the cost of a pass in which each of so many sequences drafts and verifies so many tokens."""
        verifying = self._rows(sequences * (1 + drafted)) / self._rows(sequences)
        return verifying + self.fixed + drafted * self.draft

    def _rows(self, n: int) -> float:
        bound = 1.0 + (n - 1) * self.verify
        return bound if self.measured is None else min(bound, self.measured(n))


class DraftLength:
    """Chooses the number of tokens to draft: `length`, 0 while speculation is switched off.

    The acceptance rate `a` of drafted tokens is estimated from the latest ones. A forward pass with L drafted tokens
    generates (1 - a^(L+1)) / (1 - a) tokens on average; the L with the most tokens per cost is chosen, and none
    where that is no gain over plain steps.

    While switched off, it tries again after a number of plain steps that doubles with every failure.

    Nothing here reads a clock: the same acceptances give the same lengths. Where drafts are drawn from a distribution,
    the lengths decide which random numbers are used, so that a seed gives the same text only if lengths are
    reproducible.

    Source: https://arxiv.org/abs/2211.17192, section 3.3, for the number of tokens a pass.
    """

    def __init__(
        self,
        costs: Costs | None = None,
        *,
        max_length: int = 16,
        first_wait: int = 16,
        max_wait: int = 1024,
    ) -> None:
        assert max_length >= 1 and 1 <= first_wait <= max_wait, "limits of a draft length"
        self.costs, self.max_length = costs or Costs(), max_length
        self._first_wait, self._max_wait, self._wait = first_wait, max_wait, first_wait
        self._hits, self._misses = 2.0, 1.0
        self._left = 0
        self._found: dict[int, tuple[int, float]] = {}
        self.length, _ = self.best()

    def length_for(self, sequences: int) -> int:
        """Return how many tokens to draft in each of so many sequences: fewer, or none, where passes are wide."""
        return min(self.length, self.best(sequences)[0]) if sequences > 1 else self.length

    def record(self, drafted: int, accepted: int) -> None:
        """Record the outcome of a verifying pass: how many of the drafted tokens were accepted."""
        assert 0 <= accepted <= drafted, f"{accepted} tokens accepted of {drafted}"
        if not drafted:
            return
        self._learn(accepted, missed=accepted < drafted)
        if accepted == drafted:
            self._wait = max(self._first_wait, self._wait // 2)
        length, gain = self.best()
        if gain > _MARGIN:
            self.length = length
        else:
            self._switch_off()

    def skip(self) -> None:
        """Record a plain step while switched off."""
        if self.length:
            return
        self._left -= 1
        if self._left <= 0:
            # A short draft, of which next to nothing is known: cheap ones are tried a few times before they end.
            self._hits, self._misses, self._found = 1.0, 1.0, {}
            self.length = min(2, self.max_length)

    def _learn(self, hits: int, *, missed: bool) -> None:
        kept = (1 - 1 / _MEMORY) ** (hits + missed)
        self._hits = self._hits * kept + hits
        self._misses = self._misses * kept + missed
        self._found = {}

    def _switch_off(self) -> None:
        self.length, self._left = 0, self._wait
        self._wait = min(2 * self._wait, self._max_wait)

    def best(self, sequences: int = 1) -> tuple[int, float]:
        """Return the length with the most tokens per cost for so many sequences, and that gain over a plain step."""
        if sequences not in self._found:
            rate = self._hits / (self._hits + self._misses)
            best, gain, tokens = 0, 1.0, 1.0
            for length in range(1, self.max_length + 1):
                tokens += rate**length
                if tokens / self.costs.of(length, sequences) > gain:
                    best, gain = length, tokens / self.costs.of(length, sequences)
            self._found[sequences] = best, gain
        return self._found[sequences]
