"""Prompt lookup against a search through the whole sequence."""

import random
import sys

import pytest

from llama3_mlx.errors import RequestError
from llama3_mlx.speculation import PromptLookup


class BySearch:
    """The rule of PromptLookup, each time by looking through everything."""

    def __init__(self, longest: int, shortest: int) -> None:
        self.longest, self.shortest = longest, shortest
        self.tokens: list[int] = []
        self.source, self.matched = 0, 0

    def extend(self, tokens: list[int]) -> None:
        for token in tokens:
            self.tokens.append(token)
            right = self.matched > 0 and self.tokens[self.source] == token
            self.source, self.matched = (self.source + 1, self.matched + 1) if right else (0, 0)

    def draft(self, most: int) -> list[int]:
        tokens = self.tokens
        for n in range(self.longest, max(self.shortest, self.matched + 1) - 1, -1):
            ends = [end for end in range(n, len(tokens)) if tokens[end - n : end] == tokens[len(tokens) - n :]]
            if ends and len(tokens) >= n:
                self.source, self.matched = ends[-1], n
                break
        period = tokens[self.source :]
        return (period * (most // max(1, len(period)) + 1))[:most] if self.matched else []


@pytest.mark.parametrize("alphabet", [2, 3, 6, 20])
@pytest.mark.parametrize(("longest", "shortest"), [(4, 1), (4, 2), (2, 2), (6, 3)])
def test_drafts_are_those_of_a_search(alphabet: int, longest: int, shortest: int) -> None:
    rng = random.Random(f"{alphabet} {longest}")
    lookup = PromptLookup(longest=longest, shortest=shortest)
    search = BySearch(longest, shortest)
    for _ in range(150):
        tokens = [rng.randrange(alphabet) for _ in range(rng.randint(0, 3))]
        if search.tokens and rng.random() < 0.3:
            start = rng.randrange(len(search.tokens))
            tokens += search.tokens[start : start + rng.randint(1, 9)]
        lookup.extend(tokens)
        search.extend(tokens)
        most = rng.randint(0, 12)
        assert lookup.draft(most) == search.draft(most)
        assert lookup.matched == search.matched


def test_a_new_sequence_has_no_draft() -> None:
    assert PromptLookup().draft(8) == []
    assert PromptLookup([7]).draft(8) == []
    assert PromptLookup(range(100)).draft(8) == []


def test_the_longest_match_comes_before_the_latest() -> None:
    lookup = PromptLookup([1, 2, 3, 4, 50, 9, 3, 4, 60, 1, 2, 3, 4])
    assert lookup.draft(1) == [50]


def test_of_equal_matches_the_latest_is_taken() -> None:
    assert PromptLookup([3, 4, 50, 9, 3, 4, 60, 8, 3, 4]).draft(1) == [60]


def test_copying_stays_with_the_passage_it_began_in() -> None:
    first, second = [1, 2, 3, 4, 5, 6, 7, 8, 10], [0, 3, 4, 5, 6, 7, 8, 20]
    lookup = PromptLookup([*first, *second, 1, 2, 3])
    assert lookup.draft(1) == [4]
    lookup.extend([4, 5, 6, 7, 8])
    assert lookup.draft(1) == [10]


def test_the_match_grows_with_what_came_true() -> None:
    lookup = PromptLookup([*range(100), 999, 0, 1])
    assert lookup.draft(8) == list(range(2, 10))
    assert lookup.matched == 2
    lookup.extend(range(2, 10))
    assert lookup.draft(2) == [10, 11]
    assert lookup.matched == 10


def test_a_repetition_is_drafted_beyond_the_end() -> None:
    assert PromptLookup([1, 2, 1, 2, 1, 2]).draft(7) == [1, 2, 1, 2, 1, 2, 1]


def test_large_token_ids_do_not_collide() -> None:
    last = 2**32 - 1
    assert PromptLookup([last, 0, 5, 0, last, 6, last, 0]).draft(1) == [5]


def test_memory_is_linear_in_the_tokens() -> None:
    rng = random.Random(0)

    def held(count: int) -> int:
        lookup = PromptLookup([rng.randrange(128256) for _ in range(count)])
        return sum(sys.getsizeof(followers) for followers in lookup._followers) + sys.getsizeof(lookup._tokens)

    assert held(40_000) < 6 * held(10_000)


def test_sizes_that_make_no_sense_are_refused() -> None:
    with pytest.raises(RequestError, match="1 <= shortest <= longest, not 3 and 2"):
        PromptLookup(shortest=3, longest=2)
