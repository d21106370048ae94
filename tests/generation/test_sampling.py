"""Distributions against transformers' warpers and numpy; penalties against transformers and OpenAI's formula."""

from typing import Any

import mlx.core as mx
import numpy as np
import pytest
import torch
from mlx_lm.sample_utils import apply_xtc
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
    TypicalLogitsWarper,
)

from llama3_mlx.generation.options import GenerationOptions
from llama3_mlx.generation.penalties import make_penalties
from llama3_mlx.generation.sampling import Sampling, make_sampler, pick, probabilities, uniforms

LOGITS = np.random.default_rng(0).normal(0, 3, (4, 500)).astype(np.float32)


def distribution(**settings: Any) -> np.ndarray:
    options = GenerationOptions(**{"temperature": 1.0, **settings})
    return np.array(probabilities(Sampling.from_options(options), mx.array(LOGITS), mx.zeros((4, 4))))


def reference(*warpers: Any) -> np.ndarray:
    scores = LogitsProcessorList(warpers)(torch.zeros((4, 1), dtype=torch.long), torch.tensor(LOGITS))
    return torch.softmax(scores, dim=-1).numpy()


@pytest.mark.parametrize(
    ("settings", "warpers"),
    [
        ({"temperature": 0.7}, [TemperatureLogitsWarper(0.7)]),
        ({"top_k": 7}, [TopKLogitsWarper(7)]),
        ({"top_p": 0.8}, [TopPLogitsWarper(0.8)]),
        ({"top_p": 0.05}, [TopPLogitsWarper(0.05)]),
        ({"min_p": 0.1}, [MinPLogitsWarper(0.1)]),
        ({"typical_p": 0.6}, [TypicalLogitsWarper(0.6)]),
        ({"typical_p": 0.95}, [TypicalLogitsWarper(0.95)]),
        (
            {"temperature": 1.6, "top_k": 50, "top_p": 0.9, "min_p": 0.02},
            [TemperatureLogitsWarper(1.6), TopKLogitsWarper(50), TopPLogitsWarper(0.9), MinPLogitsWarper(0.02)],
        ),
    ],
)
def test_distributions_equal_transformers(settings: dict[str, Any], warpers: list[Any]) -> None:
    assert np.abs(distribution(**settings) - reference(*warpers)).max() < 1e-6


def test_the_most_likely_tokens_are_left_out_but_the_least_of_them() -> None:
    """XTC worked out in numpy; its own uniform number decides whether it applies."""
    settings = Sampling(temperature=1.0, xtc_probability=0.5, xtc_threshold=0.02)
    plain = np.exp(LOGITS) / np.exp(LOGITS).sum(axis=-1, keepdims=True)
    expected = plain.copy()
    for row in expected:
        above = np.flatnonzero(row >= 0.02)
        assert len(above) > 1
        row[above[row[above] > row[above].min()]] = 0
    expected /= expected.sum(axis=-1, keepdims=True)
    for number, wanted in ((0.49, expected), (0.51, plain)):
        numbers = mx.array([[0.0, number, 0.0, 0.0]] * 4)
        assert np.abs(np.array(probabilities(settings, mx.array(LOGITS), numbers)) - wanted).max() < 1e-6


@pytest.mark.parametrize("exempt", [(), (0,), (1, 2), (0, 3)])
def test_xtc_exempts_tokens_as_mlx_lm_does(exempt: tuple[int, ...]) -> None:
    logits = mx.log(mx.array([[0.4, 0.3, 0.15, 0.15], [0.08, 0.21, 0.31, 0.4], [0.88, 0.05, 0.04, 0.03]]))
    expected = mx.softmax(apply_xtc(logits, 1.0, 0.1, list(exempt)), axis=-1)
    options = GenerationOptions(temperature=1.0, xtc_probability=1.0, xtc_threshold=0.1)
    found = probabilities(Sampling.from_options(options, exempt), logits, mx.zeros((3, 4)))
    assert np.abs(np.array(found) - np.array(expected)).max() < 1e-6


def test_tokens_are_drawn_in_the_shares_of_the_distribution() -> None:
    weights = np.array([0.5, 0.0, 0.25, 0.2, 0.05, 0.0])
    numbers = mx.array([[uniforms(seed, 3)[0]] for seed in range(20000)], mx.float32)
    drawn = np.array(pick(mx.broadcast_to(mx.array(weights, mx.float32), (20000, 6)), numbers))
    counts = np.bincount(drawn, minlength=6)
    assert counts[1] == counts[5] == 0
    kept = weights > 0
    statistic = ((counts[kept] - 20000 * weights[kept]) ** 2 / (20000 * weights[kept])).sum()
    assert statistic < 16.27  # chi-square of 3 degrees of freedom, 99.9%


def test_a_draw_at_the_ends_of_the_range_has_a_share() -> None:
    rows = mx.array([[0.0, 0.3, 0.7, 0.0]] * 2)
    assert np.array(pick(rows, mx.array([[0.0], [1 - 2**-24]]))).tolist() == [1, 2]


def test_numbers_follow_from_seed_and_step_alone() -> None:
    numbers = [uniforms(seed, step) for seed in (0, 1, 2**64 - 1) for step in range(50)]
    assert uniforms(1, 7) == uniforms(1, 7)
    flat = [number for row in numbers for number in row]
    assert all(0 <= number < 1 for number in flat)
    assert len(set(flat)) == len(flat)
    assert all(float(np.float32(number)) == number for number in flat)


def test_zero_temperature_takes_the_most_likely() -> None:
    tokens = make_sampler(Sampling())(mx.array(LOGITS), mx.zeros((4, 0)))
    assert np.array(tokens).tolist() == LOGITS.argmax(axis=-1).tolist()


def test_the_repetition_penalty_equals_transformers() -> None:
    prompt = [3, 9, 9, 27]
    penalties = make_penalties(GenerationOptions(repetition_penalty=1.3), prompt, 500)
    assert penalties is not None
    expected = RepetitionPenaltyLogitsProcessor(1.3)(torch.tensor([[*prompt, 4]]), torch.tensor(LOGITS[:1]))
    found = penalties.add(mx.array([4])).apply(mx.array(LOGITS[:1]))
    assert np.abs(np.array(found) - expected.numpy()).max() < 1e-5


def test_presence_and_frequency_penalties_count_what_was_generated() -> None:
    """mu[j] - c[j] * frequency - (c[j] > 0) * presence, as OpenAI's API reference has it; the prompt doesn't count."""
    options = GenerationOptions(presence_penalty=0.5, frequency_penalty=0.25, logit_bias={7: 3.0})
    penalties = make_penalties(options, [1, 1, 1], 500)
    for token in (5, 5, 8):
        assert penalties is not None
        penalties = penalties.add(mx.array([token]))
    assert penalties is not None
    expected = LOGITS[:1].copy()
    expected[0, 5] -= 0.5 + 2 * 0.25
    expected[0, 8] -= 0.5 + 0.25
    expected[0, 7] += 3.0
    assert np.abs(np.array(penalties.apply(mx.array(LOGITS[:1]))) - expected).max() < 1e-5


def test_nothing_asked_for_costs_nothing() -> None:
    assert make_penalties(GenerationOptions(repetition_penalty=1.0), [1], 500) is None
