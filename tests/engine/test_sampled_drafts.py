"""10,000 sampled drafts, verified in one call as the engine verifies those of a batch: chi-square."""

from collections import Counter
from typing import Any, cast

import mlx.core as mx
import numpy as np

from llama3_mlx.engine.speculative_step import reject
from llama3_mlx.engine.token_choice import SamplingPosition, choose_tokens
from llama3_mlx.speculation.draft import HEAD, Draft, sample_drafted

from ..support.byte_llama import byte_llama, byte_model, calm
from ..support.drafted_distribution import PROMPT, SETTINGS, check_counts, joint_distribution

SAMPLES, STEPS = 10_000, 3


def test_10000_drafts_of_two_tokens_keep_the_models_distribution() -> None:
    """Chi-square of the first two tokens, and of the third behind drafts whose first token is accepted.

    Drafts come from the model's own logits and noise; every number is that of the seed and the step.
    """
    with byte_llama(calm(byte_model(num_hidden_layers=1, hidden_size=32, head_dim=16), 0.01)) as llama:
        expected = joint_distribution(llama, STEPS)
        known = {tokens[:n]: None for tokens in expected for n in range(STEPS)}
        table: dict[Any, np.ndarray] = {
            tokens: np.array(llama.logits([*PROMPT, *tokens])[-1], np.float32) for tokens in known
        }
        # What is drafted beyond the likely tokens is followed by nothing that is looked at.
        other = table[()]
    noise = np.random.default_rng(0).normal(0, 1, (2, other.shape[0])).astype(np.float32)

    def after(texts: np.ndarray) -> np.ndarray:
        return np.stack([table.get(tuple(text), other) for text in texts.tolist()])

    def positions(step: int) -> list[SamplingPosition]:
        return [SamplingPosition(SETTINGS, seed, step) for seed in range(SAMPLES)]

    first = choose_tokens(positions(0), mx.array(np.broadcast_to(other, (SAMPLES, other.shape[0])))).tokens
    texts, proposals = np.array(first)[:, None], []
    for step in (1, 2):
        points = [(SETTINGS, seed, step) for seed in range(SAMPLES)]
        tokens, drawn = sample_drafted(mx.array(after(texts) + noise[step - 1]), points)
        texts = np.concatenate([texts, np.array(tokens)[:, None]], axis=1)
        proposals.append(mx.concatenate(cast(list[mx.array], drawn)))
    logits = np.stack([after(texts[:, : 1 + n]) for n in range(STEPS)], axis=1)
    both = mx.stack(proposals, axis=1)
    drafts = [Draft(tokens, both[at], HEAD) for at, tokens in enumerate(texts[:, 1:].tolist())]
    by_sequence = [list(found) for found in zip(*(positions(step) for step in (1, 2, 3)), strict=True)]
    counts, following = (np.array(x) for x in reject(by_sequence, drafts, mx.array(logits).flatten(0, 1)))
    assert min(Counter(counts.tolist()).values()) > 500
    # What follows an early rejection is drawn by that position's number, which no later token then uses again.
    some, early = 500, counts[:500] < 2
    elsewhere = [[*found[:-1], SamplingPosition(SETTINGS, at, 99)] for at, found in enumerate(by_sequence[:some])]
    again = np.array(reject(elsewhere, drafts[:some], mx.array(logits[:some]).flatten(0, 1))[1])
    assert np.array_equal(again[early], following[:some][early])
    assert not np.array_equal(again, following[:some])
    second = np.where(counts > 0, texts[:, 1], following)
    pairs = Counter(zip(texts[:, 0].tolist(), second.tolist(), strict=True))
    marginal: Counter[tuple[int, ...]] = Counter()
    for text, probability in expected.items():
        marginal[text[:2]] += probability  # type: ignore[assignment]
    check_counts(cast(Any, pairs), marginal)
    kept = counts > 0
    third = np.where(counts > 1, texts[:, 2], following)[kept]
    for pair, probability in marginal.items():
        of_pair = third[(texts[kept][:, :2] == pair).all(axis=1)]
        if len(of_pair) > 500:
            likely = {tokens[2]: p / probability for tokens, p in expected.items() if tokens[:2] == pair}
            share, due = np.mean(of_pair == min(likely)), likely[min(likely)]
            # The square of a normal deviate; 10.83 is the 99.9% point of chi-square with one degree of freedom.
            assert (share - due) ** 2 / (due * (1 - due) / len(of_pair)) < 10.83
