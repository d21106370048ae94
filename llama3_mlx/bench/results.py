"""Figures of a benchmark: every round of every program, their medians and ratios."""

import math
import statistics
from dataclasses import dataclass, field

from ..json_types import JsonObject
from .drafts import DraftFigures

UNITS = {
    "prefill": "tokens/s",
    "decode": "tokens/s",
    "batch": "tokens/s",
    "peak": "bytes",
    "batch peak": "bytes",
}


@dataclass
class Figure:
    """One thing measured, at a prompt length or a number of requests; `rounds` by program."""

    what: str
    at: int
    rounds: dict[str, list[float]] = field(default_factory=dict)

    def add(self, program: str, value: float) -> None:
        """Take one round's value."""
        self.rounds.setdefault(program, []).append(value)

    def median(self, program: str) -> float:
        """Return the median of the rounds, nan for a program that doesn't give the figure."""
        return statistics.median(self.rounds[program]) if program in self.rounds else math.nan

    def ratio(self, ours: str, theirs: str) -> float:
        """Return how many times theirs ours is."""
        return self.median(ours) / self.median(theirs)

    def to_dict(self) -> JsonObject:
        """Return plain values, medians beside the rounds."""
        return {
            "what": self.what,
            "at": self.at,
            "unit": UNITS[self.what],
            "median": {program: self.median(program) for program in self.rounds},
            "rounds": self.rounds,
        }


@dataclass
class Results:
    """All figures; `facts` by program are what doesn't vary: sizes and counts of one decode step."""

    model: str
    settings: JsonObject
    figures: list[Figure] = field(default_factory=list)
    facts: dict[str, dict[str, float]] = field(default_factory=dict)
    machine: JsonObject = field(default_factory=dict)
    drafts: DraftFigures | None = None
    """Ours alone with what drafts, where that was given."""

    @property
    def programs(self) -> list[str]:
        """The programs, ours first."""
        return list(self.facts)

    def of(self, what: str) -> list[Figure]:
        """Return the figures of one kind, in the order of their sizes."""
        return sorted((figure for figure in self.figures if figure.what == what), key=lambda figure: figure.at)

    def to_dict(self) -> JsonObject:
        """Return plain values for JSON."""
        return {
            "model": self.model,
            "machine": self.machine,
            "settings": self.settings,
            "facts": self.facts,
            "figures": [figure.to_dict() for figure in self.figures],
            **({"drafts": self.drafts.to_dict()} if self.drafts is not None else {}),
        }
