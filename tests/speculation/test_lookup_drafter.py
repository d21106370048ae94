"""The lookup drafter over texts whose plain decoding is known."""

import random
from itertools import takewhile

import pytest

from llama3_mlx.speculation import Costs, LookupDrafter

from ..support.speculation_stats import SpeculationStats

CHEAP, DEAR = Costs(verify=0.05), Costs(verify=0.25, fixed=0.1)


def decode(drafter: LookupDrafter, answer: list[int], costs: Costs) -> tuple[SpeculationStats, float]:
    """Write `answer` as lossless speculation does; return statistics and the rate in plain steps."""
    stats, at, cost = SpeculationStats(), 0, 0.0
    while at < len(answer):
        draft = drafter.draft(len(answer) - at - 1)
        pairs = zip(draft, answer[at:], strict=False)
        accepted = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
        stats.record(len(draft), accepted)
        cost += costs.of(len(draft)) if draft else 1.0
        drafter.add(answer[at : at + accepted + 1])
        at += accepted + 1
    assert stats.written == len(answer)
    return stats, len(answer) / cost


def words(rng: random.Random, n: int, vocabulary: int) -> list[int]:
    """Tokens as frequent as words are: the n-th with a share of 1/n."""
    return rng.choices(range(vocabulary), [1 / (rank + 1) for rank in range(vocabulary)], k=n)


@pytest.mark.parametrize("costs", [CHEAP, DEAR])
@pytest.mark.parametrize("vocabulary", [20, 1000, 50_000])
def test_free_text_keeps_its_rate(costs: Costs, vocabulary: int) -> None:
    rates = []
    for seed in range(20):
        rng = random.Random(seed)
        drafter = LookupDrafter(words(rng, 200, vocabulary), costs=costs)
        rates.append(decode(drafter, words(rng, 300, vocabulary), costs)[1])
    assert min(rates) >= 0.95
    assert sum(rates) / len(rates) >= 0.97


@pytest.mark.parametrize("costs", [CHEAP, DEAR])
def test_copying_takes_few_passes(costs: Costs) -> None:
    prompt = words(random.Random(0), 500, 5000)
    stats, rate = decode(LookupDrafter(prompt, costs=costs), prompt[100:400], costs)
    assert stats.tokens_per_pass > 8
    assert rate > 2.5


def test_an_edited_copy_is_generated_in_a_quarter_of_the_passes() -> None:
    rng = random.Random(1)
    prompt = words(rng, 400, 5000)
    answer = [token if rng.random() > 0.05 else rng.randrange(5000, 6000) for token in prompt]
    stats, _ = decode(LookupDrafter(prompt), answer, CHEAP)
    assert stats.tokens_per_pass > 4


def test_long_matches_are_drafted_longer_than_short_ones() -> None:
    drafter = LookupDrafter([*range(100), 500, 10], costs=DEAR)
    short = len(drafter.draft())
    drafter.add([11, 12, 13, 14])
    assert short < len(drafter.draft()) > 3


def test_it_learns_from_drafts_that_it_held_back() -> None:
    drafter = LookupDrafter([7, 8] * 3, costs=Costs(verify=5.0))
    for step in range(40):
        assert drafter.draft() == []
        drafter.add([7 + step % 2])
    drafter.costs = drafter.own_costs = CHEAP
    assert len(drafter.draft()) == 16


def test_what_never_comes_true_is_no_longer_drafted() -> None:
    drafter, drafted = LookupDrafter([], costs=CHEAP), []
    for step in range(400):
        # Every second token is 0, which is never followed by what followed it before.
        drafted.append(len(drafter.draft()))
        drafter.add([0 if step % 2 else step])
    assert sum(map(bool, drafted[100:])) == 0


def test_no_more_is_drafted_than_asked_for() -> None:
    drafter = LookupDrafter([*range(50), *range(40)], max_length=8)
    assert drafter.draft() == list(range(40, 48))
    assert drafter.draft(3) == [40, 41, 42]
    assert drafter.draft(0) == []


def test_tokens_generated_without_a_draft_are_taken_in() -> None:
    drafter = LookupDrafter([1, 2, 3, 4, 5, 6])
    drafter.add([1, 2, 3])
    assert drafter.draft(1) == [4]


def test_the_same_text_gives_the_same_drafts() -> None:
    prompt = words(random.Random(3), 300, 50)
    one, other = LookupDrafter(prompt), LookupDrafter(prompt)
    for token in words(random.Random(4), 100, 50):
        draft = one.draft()
        assert draft == other.draft()
        one.add([token])
        other.add([token])


def test_the_prompt_and_the_answer_itself_have_their_own_costs() -> None:
    passage, story = list(range(30)), list(range(100, 130))
    never = Costs(verify=50.0)
    from_prompt = LookupDrafter(passage, costs=CHEAP, own_costs=never)
    from_itself = LookupDrafter(passage, costs=never, own_costs=CHEAP)
    for drafter in (from_prompt, from_itself):
        drafter.add([*story, *passage[:5]])
    assert from_prompt.draft(2) == [5, 6]
    assert from_itself.draft(2) == []
    for drafter in (from_prompt, from_itself):
        drafter.add(story[:5])
    assert from_prompt.draft(2) == []
    assert from_itself.draft(2) == story[5:7]
