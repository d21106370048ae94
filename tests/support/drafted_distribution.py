"""Whether drafts leave the distribution of samples as it is: chi-square."""

from collections import Counter
from collections.abc import Mapping

import mlx.core as mx
import numpy as np

from llama3_mlx import Llama
from llama3_mlx.generation.sampling import Sampling, probabilities

SETTINGS = Sampling(temperature=1.0, top_k=3)
PROMPT = [10, 20, 30, 40, 50]
_SAMPLES = 1000


def check_distribution(drafting: Llama) -> None:
    """Hold samples of four tokens, those behind the first drafted, against the distribution worked out whole."""
    expected = joint_distribution(drafting, 4)
    done = drafting.samples(PROMPT, _SAMPLES, max_tokens=6, temperature=1.0, top_k=3, seed=0, ignore_eos=True)
    assert sum(each.passes for each in done) < 5 * _SAMPLES
    assert sum(sum(counts.drafted[1:2]) for each in done for counts in each.drafts) > _SAMPLES / 10
    check_counts(Counter(each.token_ids[:4] for each in done), expected)


def joint_distribution(llama: Llama, n: int) -> dict[tuple[int, ...], float]:
    """Return the probability of every beginning of `n` tokens, by plain forward passes."""
    found: dict[tuple[int, ...], float] = {(): 1.0}
    for _ in range(n):
        longer: dict[tuple[int, ...], float] = {}
        for tokens, probability in found.items():
            logits = llama.logits([*PROMPT, *tokens])[-1:]
            each = np.array(probabilities(SETTINGS, logits, mx.zeros((1, 4))))[0].astype(np.float64)
            longer |= {(*tokens, int(token)): probability * each[token] for token in np.flatnonzero(each)}
        found = longer
    return found


def check_counts(drawn: Counter[tuple[int, ...]], expected: Mapping[tuple[int, ...], float]) -> None:
    """Hold counts of token sequences against their probabilities."""
    total = sum(drawn.values())
    assert set(drawn) <= set(expected)
    counted = [(drawn[tokens], total * p) for tokens, p in expected.items() if total * p > 5]
    statistic, degrees = sum((found - due) ** 2 / due for found, due in counted), len(counted) - 1
    assert degrees > 2
    # The 99.9% point of chi-square for large degrees of freedom (Wilson and Hilferty 1931).
    assert statistic < degrees * (1 - 2 / (9 * degrees) + 3.09 * np.sqrt(2 / (9 * degrees))) ** 3
