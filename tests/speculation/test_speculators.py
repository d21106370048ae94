"""Which source drafts, and how far: by the gain that each is expected to have."""

from typing import Any, cast

import pytest

from llama3_mlx.speculation import Costs, DraftLength, LookupDrafter
from llama3_mlx.speculation.draft import HEAD, LOOKUP, Draft
from llama3_mlx.speculation.pass_costs import PassCosts
from llama3_mlx.speculation.speculators import Speculator

from ..support.byte_llama import byte_model

CHEAP = Costs(verify=0.05)


class Drafter:
    """Of a draft model or head, what the choice looks at."""

    def __init__(self) -> None:
        self.length = DraftLength(CHEAP, max_length=8)

    def add(self, tokens: list[int]) -> None:
        """Nothing to keep."""


def speculator(text: list[int]) -> Speculator:
    return Speculator(LookupDrafter(text, costs=CHEAP), cast(Any, Drafter()))


def test_the_source_with_the_longer_expected_draft_wins() -> None:
    copied = [*range(30), *range(20)]
    both = speculator(copied)
    found = both.choose(8, 1)
    assert isinstance(found, Draft)
    assert (found.source, found.tokens) == (LOOKUP, [20, 21, 22, 23, 24, 25, 26, 27])
    # A match of one token is rarely right; a head that always was drafts in its place.
    weak = speculator([5, 6, 7, 8, 5])
    for _ in range(6):
        weak.record(Draft([1] * 8, source=HEAD), 8)
    assert weak.choose(8, 1) == 8
    # One that never was is switched off: what the text offers is what there is.
    for _ in range(40):
        both.record(Draft([1, 2], source=HEAD), 0)
    assert both.is_off
    assert isinstance(both.choose(8, 1), Draft)


def test_acceptance_is_learned_by_source() -> None:
    one = speculator(list(range(40)))
    before = one.choose(8, 1)
    for _ in range(20):
        one.record(Draft([1, 2, 3], source=LOOKUP), 0)
    assert one.choose(8, 1) == before


@pytest.mark.parametrize("accepted", [2, 4])
def test_a_full_batch_drafts_less_or_not_at_all(accepted: int) -> None:
    """With costs by rows as published for a 4-bit matrix on an M4 Pro (mlx#3839), taken to grow on beyond 8 rows."""
    costs = {1: 1.0, 2: 1.03, 3: 1.22, 4: 1.47, 6: 2.07, 8: 2.69}
    length = DraftLength(Costs(verify=1.0, draft=0.05, measured=lambda n: costs.get(n, 0.31 * n)), max_length=8)
    for _ in range(20):
        length.record(5, accepted)
    lengths = [length.length_for(sequences) for sequences in (1, 2, 4, 8, 32)]
    assert lengths == sorted(lengths, reverse=True)
    assert lengths[0] >= 2
    assert lengths[-1] == 0
    # Off for the batch alone: with fewer sequences it drafts at once.
    assert length.length_for(1) == lengths[0]


def test_costs_of_passes_are_measured_and_never_fall() -> None:
    costs = PassCosts(byte_model())
    found = [costs(rows) for rows in range(1, 300)]
    assert found[0] == 1
    assert all(1 + 0.03 * at <= cost <= 1 + at for at, cost in enumerate(found))
    assert found == sorted(found)
