"""How many tokens to draft, from how many were accepted: long drafts where they pay, none where they don't."""

from dataclasses import dataclass

_MEMORY = 12.0
_MARGIN = 1.02


@dataclass(frozen=True)
class Costs:
    """Costs of speculation, in plain decode steps.

    `verify` is what each drafted token adds to the forward pass that verifies it, `draft` what it costs to draft it (a
    step of the draft model; nothing for a lookup), `fixed` what such a pass costs beyond a plain step at any length.
    """

    verify: float = 0.05
    draft: float = 0.0
    fixed: float = 0.0

    def of(self, drafted: int) -> float:
        """Return the cost of a pass that drafts and verifies so many tokens."""
        return 1.0 + self.fixed + drafted * (self.verify + self.draft)


class DraftLength:
    """Chooses the number of tokens to draft: `length`, 0 while speculation is switched off.

    The acceptance rate `a` of drafted tokens is estimated from the latest ones. A forward pass with L drafted tokens
    generates (1 - a^(L+1)) / (1 - a) tokens on average; the L with the most tokens per cost is chosen, and none
    where that is no gain over plain steps, or after `patience` passes in a row without an accepted token.

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
        patience: int = 6,
        first_wait: int = 16,
        max_wait: int = 1024,
    ) -> None:
        assert max_length >= 1 and patience >= 1 and 1 <= first_wait <= max_wait, "limits of a draft length"
        self.costs, self.max_length, self.patience = costs or Costs(), max_length, patience
        self._first_wait, self._max_wait, self._wait = first_wait, max_wait, first_wait
        self._hits, self._misses = 2.0, 1.0
        self._fruitless = self._left = 0
        self.length, _ = self._best()

    def record(self, drafted: int, accepted: int) -> None:
        """Record the outcome of a verifying pass: how many of the drafted tokens were accepted."""
        assert 0 <= accepted <= drafted, f"{accepted} tokens accepted of {drafted}"
        if not drafted:
            return
        self._learn(accepted, missed=accepted < drafted)
        self._fruitless = 0 if accepted else self._fruitless + 1
        if accepted == drafted:
            self._wait = max(self._first_wait, self._wait // 2)
        length, gain = self._best()
        if gain > _MARGIN and self._fruitless < self.patience:
            self.length = length
        else:
            self._switch_off()

    def skip(self) -> None:
        """Record a plain step while switched off."""
        if self.length:
            return
        self._left -= 1
        if self._left <= 0:
            # One trial: a short draft, judged by itself.
            self._hits, self._misses, self._fruitless = 1.0, 1.0, self.patience - 1
            self.length = min(2, self.max_length)

    def _learn(self, hits: int, *, missed: bool) -> None:
        kept = (1 - 1 / _MEMORY) ** (hits + missed)
        self._hits = self._hits * kept + hits
        self._misses = self._misses * kept + missed

    def _switch_off(self) -> None:
        self.length, self._left = 0, self._wait
        self._wait = min(2 * self._wait, self._max_wait)

    def _best(self) -> tuple[int, float]:
        """Return the length with the most tokens per cost, and that gain over a plain step."""
        rate = self._hits / (self._hits + self._misses)
        best, gain, tokens = 0, 1.0, 1.0
        for length in range(1, self.max_length + 1):
            tokens += rate**length
            if tokens / self.costs.of(length) > gain:
                best, gain = length, tokens / self.costs.of(length)
        return best, gain
