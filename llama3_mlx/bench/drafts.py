"""Decoding of free text with and without drafts, by one program in turn: `bench --draft`.

Random prompts tell nothing of drafts, so that these are texts: one request of each kind that people make.
"""

import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from ..generation.completion import Completion
from ..json_types import JsonObject
from .options import BenchOptions
from .program import Result
from .worker import Worker

REQUESTS = (
    "Explain in a few paragraphs why the sky is blue and sunsets are red.",
    "Write a Python function that merges two sorted lists, with a docstring and two examples.",
    "A train leaves at 9:40 and arrives at 13:05. How long does it take? Explain step by step.",
    "Write a short story about a lighthouse keeper who finds a letter.",
    "List the advantages and drawbacks of electric cars as a table.",
    "Translate into French, then explain the grammar: The children were playing in the garden when it began to rain.",
)
_ACCEPTED = "accepted, "


@dataclass
class DraftFigures:
    """What was measured: each figure's rounds."""

    rounds: dict[str, list[float]] = field(default_factory=dict)

    def add(self, values: Result) -> None:
        """Take one round's values."""
        for name, value in values.items():
            self.rounds.setdefault(name, []).append(value)

    def median(self, name: str) -> float:
        """Return the median of a figure's rounds."""
        return statistics.median(self.rounds[name])

    def to_dict(self) -> JsonObject:
        """Return plain values, medians beside the rounds."""
        return {"median": {name: self.median(name) for name in self.rounds}, "rounds": self.rounds}

    def rows(self) -> list[tuple[str, str]]:
        """Return each figure's title and how it is shown."""
        plain, drafted = self.median("plain_per_second"), self.median("drafted_per_second")
        made = [
            ("free text without drafts, tokens/s", f"{plain:.1f}"),
            ("free text with drafts, tokens/s", f"{drafted:.1f}"),
            ("  times the rate without", f"{drafted / plain:.2f}"),
            ("  tokens per forward pass", f"{self.median('tokens_per_pass'):.2f}"),
        ]
        made += [(f"  {name}", f"{self.median(name):.0%}") for name in self.rounds if name.startswith(_ACCEPTED)]
        made.append(("  passes with drafts switched off", f"{self.median('off'):.0%}"))
        return [*made, ("  answers equal to those without", f"{self.median('equal'):.0%}")]


def measure_drafts(
    folder: Path, draft: Path, options: BenchOptions, *, dtype: str, progress: Callable[[str], None]
) -> DraftFigures:
    """Measure a model with what drafts for it, in a process of its own."""
    figures = DraftFigures()
    with Worker("llama3-mlx") as worker:
        progress("loading with drafts")
        worker.call("load", folder=str(folder), dtype=dtype, draft=str(draft))
        for number in range(options.rounds):
            progress(f"round {number + 1} of {options.rounds}: free text without and with drafts")
            figures.add(worker.call("drafts", requests=list(REQUESTS), tokens=options.tokens, drafted_first=number % 2))
    return figures


def summed(plain: Iterable[Completion], drafted: Iterable[Completion]) -> Result:
    """Return the figures of one round, from the answers to the same prompts without and with drafts.

    Rates are those of decoding: time over all answers, from the first token of each on.
    """
    plain, drafted = list(plain), list(drafted)
    tokens, passes = sum(len(each.token_ids) for each in drafted), sum(each.passes for each in drafted)
    found: Result = {
        "plain_per_second": _rate(plain),
        "drafted_per_second": _rate(drafted),
        "tokens_per_pass": tokens / max(1, passes),
        "off": sum(each.passes_off for each in drafted) / max(1, passes),
        "equal": sum(a.token_ids == b.token_ids for a, b in zip(plain, drafted, strict=True)) / len(plain),
    }
    tries: dict[tuple[str, int], list[int]] = {}
    for counts in (counts for each in drafted for counts in each.drafts):
        for at, pair in enumerate(zip(counts.drafted, counts.accepted, strict=True), 1):
            sums = tries.setdefault((counts.source, at), [0, 0])
            sums[0], sums[1] = sums[0] + pair[0], sums[1] + pair[1]
    rates = {f"{_ACCEPTED}{source}, token {at}": kept / tried for (source, at), (tried, kept) in sorted(tries.items())}
    return found | rates


def _rate(answers: list[Completion]) -> float:
    seconds = sum((len(each.token_ids) - 1) / each.tokens_per_second for each in answers if each.tokens_per_second > 0)
    return sum(max(0, len(each.token_ids) - 1) for each in answers) / seconds if seconds else 0.0
