"""What a guard says about a message, and how its written answer is read where another program ran it."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from .policy import Category, Policy


@dataclass(frozen=True)
class Verdict:
    """A judgement. `score` is P(unsafe) against P(safe); scores of categories are P(unsafe) times P(named first).

    `reason` says why a message is flagged without the model having said so in the right form.
    """

    flagged: bool
    score: float
    categories: tuple[Category, ...] = ()
    category_scores: Mapping[str, float] = field(default_factory=dict)
    reason: str | None = None

    @property
    def text(self) -> str:
        """The answer as a Llama Guard writes it."""
        codes = ",".join(category.code for category in self.categories)
        return f"unsafe\n{codes}".rstrip() if self.flagged else "safe"


def read_answer(text: str, policy: Policy) -> Verdict:
    """Return the verdict that a written answer states; what isn't plainly safe is flagged, with a reason."""
    lines = [line.strip() for line in text.strip().splitlines() if line.strip()]
    if lines == ["safe"]:
        return Verdict(flagged=False, score=0.0)
    if not lines:
        return Verdict(flagged=True, score=1.0, reason="the answer is empty")
    if lines[0] != "unsafe" or len(lines) > 2:
        return Verdict(flagged=True, score=1.0, reason=f"the answer is neither safe nor unsafe: {text.strip()[:40]!r}")
    codes = [code.strip() for code in lines[1].split(",")] if len(lines) == 2 else []
    known = tuple(category for code in dict.fromkeys(codes) if (category := policy.category(code)))
    unknown = [code for code in codes if policy.category(code) is None]
    reason = f"the policy has no category {unknown[0]!r}" if unknown else None if codes else "no category is named"
    return Verdict(flagged=True, score=1.0, categories=known, reason=reason)
