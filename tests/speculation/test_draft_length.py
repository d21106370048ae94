"""Draft lengths over traces of acceptance."""

import random
from itertools import pairwise

import pytest

from llama3_mlx.speculation import Costs, DraftLength

from ..support.speculation_stats import SpeculationStats

CHEAP, DEAR, MODEL = Costs(verify=0.05), Costs(verify=0.25), Costs(verify=0.05, draft=0.15)


def speculate(length: DraftLength, chance: float, passes: int, seed: int = 0) -> SpeculationStats:
    """Passes of a drafter that costs something, each of whose tokens is right with `chance`."""
    rng, stats = random.Random(seed), SpeculationStats()
    for _ in range(passes):
        drafted = length.length
        accepted = next((i for i in range(drafted) if rng.random() >= chance), drafted)
        stats.record(drafted, accepted)
        if drafted:
            length.record(drafted, accepted)
        else:
            length.skip()
    return stats


def rate(length: DraftLength, costs: Costs, chances: list[float], seed: int = 0) -> float:
    """Tokens for the price of a plain step, where token i is drafted rightly with chances[i]."""
    rng = random.Random(seed)
    right = [rng.random() < chance for chance in chances]
    at, cost = 0, 0.0
    while at < len(right):
        drafted = length.length
        accepted = next((i for i in range(drafted) if at + i >= len(right) or not right[at + i]), drafted)
        cost += costs.of(drafted) if drafted else 1.0
        if drafted:
            length.record(drafted, accepted)
        else:
            length.skip()
        at += accepted + 1
    return at / cost


@pytest.mark.parametrize("costs", [CHEAP, DEAR, MODEL])
def test_without_acceptance_little_is_spent(costs: Costs) -> None:
    length = DraftLength(costs)
    spent = 0.0
    for _ in range(1000):
        spent += costs.of(length.length) - 1
        if length.length:
            length.record(length.length, 0)
        else:
            length.skip()
    assert spent < 10
    assert length.length == 0


@pytest.mark.parametrize("costs", [CHEAP, DEAR, MODEL])
def test_retries_are_ever_rarer(costs: Costs) -> None:
    length, tries = DraftLength(costs), []
    for step in range(3000):
        if length.length:
            tries.append(step)
            length.record(length.length, 0)
        else:
            length.skip()
    gaps = [b - a for a, b in pairwise(tries) if b - a > 1]
    assert gaps == sorted(gaps)
    assert gaps[0] <= 17
    assert max(gaps) > 500


@pytest.mark.parametrize("costs", [CHEAP, DEAR, MODEL])
def test_copying_is_drafted_as_long_as_allowed(costs: Costs) -> None:
    length = DraftLength(costs, max_length=16)
    stats = speculate(length, 1.0, 60)
    assert length.length == 16
    assert stats.tokens_per_pass > 14


@pytest.mark.parametrize("costs", [CHEAP, DEAR, MODEL])
@pytest.mark.parametrize("chance", [0.0, 0.05, 0.15, 0.3])
def test_poor_drafts_cost_little(costs: Costs, chance: float) -> None:
    rates = [rate(DraftLength(costs), costs, [chance] * 400, seed) for seed in range(40)]
    assert sum(rates) / len(rates) >= 0.97


@pytest.mark.parametrize("costs", [CHEAP, DEAR, MODEL])
def test_lengths_are_near_the_best_fixed_one(costs: Costs) -> None:
    for chance in (0.3, 0.4, 0.5, 0.6, 0.8, 0.95):
        best = max((1 - chance ** (n + 1)) / (1 - chance) / costs.of(n) for n in range(1, 17))
        rates = [rate(DraftLength(costs), costs, [chance] * 600, seed) for seed in range(20)]
        assert sum(rates) / len(rates) > 0.9 * best


def test_it_turns_back_on_when_copying_begins_and_off_when_it_ends() -> None:
    length = DraftLength(CHEAP)
    speculate(length, 0.0, 40)
    assert length.length == 0
    stats = speculate(length, 1.0, 60)
    assert length.length == 16
    assert stats.tokens_per_pass > 5
    speculate(length, 0.0, 40)
    assert length.length == 0


def test_draft_costs_shorten_drafts() -> None:
    lengths = []
    for draft in (0.0, 0.1, 0.3):
        length = DraftLength(Costs(verify=0.05, draft=draft))
        for _ in range(40):
            length.record(5, 4)
        lengths.append(length.length)
    assert lengths == sorted(lengths, reverse=True)
    assert lengths[0] > lengths[-1]


def test_the_same_acceptances_give_the_same_lengths() -> None:
    one, other = DraftLength(), DraftLength()
    assert speculate(one, 0.6, 300, seed=3) == speculate(other, 0.6, 300, seed=3)


def test_an_empty_draft_teaches_nothing() -> None:
    length = DraftLength()
    before = length.length
    length.record(0, 0)
    assert length.length == before


def test_statistics_count_passes_and_tokens() -> None:
    stats = SpeculationStats()
    assert (stats.tokens_per_pass, stats.acceptance) == (0.0, 0.0)
    for drafted, accepted in ((4, 4), (4, 1), (0, 0)):
        stats.record(drafted, accepted)
    assert (stats.passes, stats.drafted, stats.accepted, stats.written) == (3, 8, 5, 8)
    assert stats.tokens_per_pass == pytest.approx(8 / 3)
    assert stats.acceptance == 5 / 8
