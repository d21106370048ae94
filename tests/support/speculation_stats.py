"""Counts of simulated passes, for the tests of speculation."""

from dataclasses import dataclass


@dataclass
class SpeculationStats:
    """Counts of one generation's decode passes; `written` are the tokens that they gave."""

    passes: int = 0
    drafted: int = 0
    accepted: int = 0
    written: int = 0

    def record(self, drafted: int, accepted: int) -> None:
        """Count a pass: with nothing drafted a plain step, which writes one token."""
        self.passes += 1
        self.drafted += drafted
        self.accepted += accepted
        self.written += accepted + 1

    @property
    def tokens_per_pass(self) -> float:
        """Tokens written a forward pass of the model; 1 without speculation."""
        return self.written / self.passes if self.passes else 0.0

    @property
    def acceptance(self) -> float:
        """Share of the drafted tokens that were accepted."""
        return self.accepted / self.drafted if self.drafted else 0.0
