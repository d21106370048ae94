"""How many tokens to draft, from what was accepted: long where it pays, none where it doesn't."""

from dataclasses import dataclass

_MEMORY = 12.0
_MARGIN = 1.02


@dataclass(frozen=True)
class Costs:
    """Costs of speculation, in plain decode steps.

    `verify` is what each drafted token adds to the pass that verifies it, `draft` what it costs to draft it (a step
    of the draft model; nothing for a lookup), `fixed` what a pass costs beyond a plain step whatever its length.
    """

    verify: float = 0.05
    draft: float = 0.0
    fixed: float = 0.0

    def of(self, drafted: int) -> float:
        """Return the cost of a pass that drafts and verifies so many tokens."""
        return 1.0 + self.fixed + drafted * (self.verify + self.draft)


class DraftLength:
    """Chooses the number of tokens to draft: `length`, 0 while speculation is switched off.

    The chance `a` that a drafted token is accepted is estimated from the latest ones. A pass with L drafted tokens
    writes (1 - a^(L+1)) / (1 - a) tokens on average; the L that gives most tokens for its costs is taken, and none
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
        longest: int = 16,
        patience: int = 6,
        first_wait: int = 16,
        longest_wait: int = 1024,
    ) -> None:
        assert longest >= 1 and patience >= 1 and 1 <= first_wait <= longest_wait, "limits of a draft length"
        self.costs, self.longest, self.patience = costs or Costs(), longest, patience
        self._first_wait, self._longest_wait, self._wait = first_wait, longest_wait, first_wait
        self._hits, self._misses = 2.0, 1.0
        self._barren = self._left = 0
        self.length, _ = self._best()

    def record(self, drafted: int, accepted: int) -> None:
        """Take the outcome of a verifying pass: how many of the drafted tokens were accepted."""
        assert 0 <= accepted <= drafted, f"{accepted} tokens accepted of {drafted}"
        if not drafted:
            return
        self._learn(accepted, missed=accepted < drafted)
        self._barren = 0 if accepted else self._barren + 1
        if accepted == drafted:
            self._wait = max(self._first_wait, self._wait // 2)
        length, gain = self._best()
        if gain > _MARGIN and self._barren < self.patience:
            self.length = length
        else:
            self._switch_off()

    def skip(self) -> None:
        """Take a plain step while switched off."""
        if self.length:
            return
        self._left -= 1
        if self._left <= 0:
            # One trial: a short draft, judged by itself.
            self._hits, self._misses, self._barren = 1.0, 1.0, self.patience - 1
            self.length = min(2, self.longest)

    def _learn(self, hits: int, *, missed: bool) -> None:
        kept = (1 - 1 / _MEMORY) ** (hits + missed)
        self._hits = self._hits * kept + hits
        self._misses = self._misses * kept + missed

    def _switch_off(self) -> None:
        self.length, self._left = 0, self._wait
        self._wait = min(2 * self._wait, self._longest_wait)

    def _best(self) -> tuple[int, float]:
        """Return the length of most tokens a cost, and that gain over a plain step."""
        chance = self._hits / (self._hits + self._misses)
        best, gain, tokens = 0, 1.0, 1.0
        for length in range(1, self.longest + 1):
            tokens += chance**length
            if tokens / self.costs.of(length) > gain:
                best, gain = length, tokens / self.costs.of(length)
        return best, gain
