"""Whether drafts leave the distribution of samples as it is: chi-square."""

from collections import Counter

import mlx.core as mx
import numpy as np

from llama3_mlx import Llama
from llama3_mlx.generation.sampling import Sampling, probabilities


def check_distribution(drafting: Llama) -> None:
    """Hold 10,000 samples of two tokens, the second being drafted, against the distribution worked out whole."""
    settings = Sampling(temperature=1.0, top_k=4)
    prompt = [10, 20, 30, 40, 50]

    def distribution(tokens: list[int]) -> np.ndarray:
        logits = drafting.logits(tokens)[-1:]
        return np.array(probabilities(settings, logits, mx.zeros((1, 4))))[0].astype(np.float64)

    first = distribution(prompt)
    expected = {
        (int(a), int(b)): first[a] * second[b]
        for a in np.flatnonzero(first)
        for second in [distribution([*prompt, int(a)])]
        for b in np.flatnonzero(second)
    }
    drafted: Counter[tuple[int, ...]] = Counter()
    passes = 0
    for seed in range(0, 10000, 500):
        done = drafting.samples(prompt, 500, max_tokens=3, temperature=1.0, top_k=4, seed=seed, ignore_eos=True)
        drafted.update(each.token_ids[:2] for each in done)
        passes += sum(each.passes for each in done)
    assert sum(drafted.values()) == 10000
    assert passes < 2 * 10000
    assert set(drafted) <= set(expected)
    counted = [(drafted[pair], 10000 * p) for pair, p in expected.items() if p > 1e-3]
    statistic, degrees = sum((found - due) ** 2 / due for found, due in counted), len(counted) - 1
    # The 99.9% point of chi-square for large degrees of freedom (Wilson and Hilferty 1931).
    assert statistic < degrees * (1 - 2 / (9 * degrees) + 3.09 * np.sqrt(2 / (9 * degrees))) ** 3
