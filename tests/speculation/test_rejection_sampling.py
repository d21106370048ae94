"""What stands of a draft: token by token in numpy, and 10,000 samples against the target's distribution."""

import mlx.core as mx
import numpy as np
import pytest

from llama3_mlx.speculation import accept_sampled
from llama3_mlx.speculation.rejection_sampling import draw

SAMPLES = 10_000
# The 0.999 quantiles of chi-square by degrees of freedom (NIST/SEMATECH e-Handbook, table 1.3.6.7.4).
CHI_SQUARE_999 = {1: 10.828, 2: 13.816, 3: 16.266, 4: 18.467, 5: 20.515, 6: 22.458, 7: 24.322}

PAIRS = {
    "alike": ([0.5, 0.3, 0.2, 0.0], [0.4, 0.4, 0.1, 0.1]),
    "equal": ([0.25, 0.25, 0.25, 0.25], [0.25, 0.25, 0.25, 0.25]),
    "disjoint": ([0.6, 0.4, 0.0, 0.0], [0.0, 0.0, 0.3, 0.7]),
    "sure draft": ([0.7, 0.1, 0.1, 0.1], [0.0, 1.0, 0.0, 0.0]),
    "sure target": ([0.0, 1.0, 0.0, 0.0], [0.3, 0.3, 0.3, 0.1]),
    "far apart": ([0.9, 0.05, 0.04, 0.01], [0.01, 0.04, 0.05, 0.9]),
    "zeros": ([0.0, 0.5, 0.0, 0.5], [0.5, 0.5, 0.0, 0.0]),
}


def chi_square(counts: np.ndarray, probabilities: np.ndarray) -> None:
    """Hold counts against a distribution; what has no probability mustn't occur."""
    possible = probabilities > 0
    assert counts[~possible].sum() == 0
    if possible.sum() < 2:
        return
    expected = probabilities[possible] * counts.sum()
    statistic = ((counts[possible] - expected) ** 2 / expected).sum()
    assert statistic < CHI_SQUARE_999[int(possible.sum()) - 1]


@pytest.mark.parametrize("name", PAIRS)
def test_sampled_acceptance_keeps_the_target(name: str) -> None:
    """The first two written tokens, of drafts of two tokens, against the product of the target's distributions."""
    p, q = (np.array(values) for values in PAIRS[name])
    later = np.array([[0.1, 0.2, 0.3, 0.4], [0.4, 0.3, 0.2, 0.1], [0.0, 0.5, 0.5, 0.0], [0.25, 0.25, 0.25, 0.25]])
    rng = np.random.default_rng(len(name))
    first = rng.choice(4, SAMPLES, p=q)
    second = rng.choice(4, SAMPLES, p=q)
    draft = np.stack([first, second], axis=1)
    target = np.stack([np.broadcast_to(p, (SAMPLES, 4)), later[first], later[second]], axis=1)
    proposal = np.broadcast_to(q, (SAMPLES, 2, 4))
    uniforms = rng.random((SAMPLES, 5)).astype(np.float32)
    results = accept_sampled(
        mx.array(target.astype(np.float32)),
        mx.array(proposal.astype(np.float32)),
        mx.array(draft),
        mx.array(uniforms[:, :2]),
        mx.array(uniforms[:, 2:]),
    )
    count, following = (np.array(result) for result in results)
    written = np.where(count > 0, first, following)
    chi_square(np.bincount(written, minlength=4), p)
    for token in range(4):
        row = (count >= 1) & (first == token)
        if row.sum() > 200:
            seconds = np.where(count > 1, second, following)[row]
            chi_square(np.bincount(seconds, minlength=4), later[token])


def test_equal_distributions_accept_everything() -> None:
    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.ones(50), (300, 5)).astype(np.float32)
    draft = np.array([[rng.choice(50, p=row / row.sum()) for row in rows[:4].astype(float)] for rows in p])
    uniforms = mx.array(rng.random((300, 5)).astype(np.float32) * np.float32(0.999999))
    count, _ = accept_sampled(mx.array(p), mx.array(p[:, :4]), mx.array(draft), uniforms[:, :4], uniforms)
    assert (np.array(count) == 4).all()


def by_hand(
    p: np.ndarray, q: np.ndarray, draft: np.ndarray, u: np.ndarray, after: np.ndarray, length: int
) -> tuple[int, int]:
    """Algorithm 1 of arXiv:2211.17192 for one row."""
    count = 0
    while count < length and u[count] < p[count, draft[count]] / q[count, draft[count]]:
        count += 1
    rest = np.maximum(p[count] - q[count], 0) if count < length else p[count]
    return count, int(np.searchsorted(np.cumsum(rest) / rest.sum(), after[count], side="right"))


def test_rows_of_a_batch_are_each_their_own() -> None:
    rng = np.random.default_rng(1)
    B, L, V = 64, 5, 30
    p, q = rng.dirichlet(np.full(V, 0.3), (B, L + 1)), rng.dirichlet(np.full(V, 0.3), (B, L))
    q = 0.5 * q + 0.5 * p[:, :L]
    draft = np.array([[rng.choice(V, p=q[b, i] / q[b, i].sum()) for i in range(L)] for b in range(B)])
    lengths, u, after = rng.integers(0, L + 1, B), rng.random((B, L)), rng.random((B, L + 1))
    count, following = accept_sampled(
        mx.array(p.astype(np.float32)),
        mx.array(q.astype(np.float32)),
        mx.array(draft),
        mx.array(u.astype(np.float32)),
        mx.array(after.astype(np.float32)),
        mx.array(lengths),
    )
    expected = [by_hand(p[b], q[b], draft[b], u[b], after[b], lengths[b]) for b in range(B)]
    assert list(zip(np.array(count).tolist(), np.array(following).tolist(), strict=True)) == expected
    assert len({pair[0] for pair in expected}) > 3


def test_without_a_draft_the_target_alone_decides() -> None:
    target = mx.array([[[0.0, 0.2, 0.8]]])
    nothing = mx.zeros((1, 0))
    count, token = accept_sampled(target, mx.zeros((1, 0, 3)), nothing.astype(mx.int32), nothing, mx.array([[0.5]]))
    assert (count.item(), token.item()) == (0, 2)


def test_one_row_needs_no_batch_dimension() -> None:
    count, token = accept_sampled(
        mx.array([[0.0, 1.0], [1.0, 0.0]]),
        mx.array([[0.5, 0.5]]),
        mx.array([1]),
        mx.array([0.9]),
        mx.array([0.9, 0.9]),
    )
    assert count.shape == token.shape == ()
    assert (count.item(), token.item()) == (1, 0)


def test_drawing_never_picks_what_has_no_weight() -> None:
    nearly_one = float(np.nextafter(np.float32(1), np.float32(0)))
    weights = np.zeros(128_256, np.float32)
    weights[[17, 90_000]] = 1e-3
    for uniform, expected in ((0.0, 17), (0.49, 17), (0.51, 90_000), (nearly_one, 90_000)):
        assert draw(mx.array(weights), mx.array(uniform)).item() == expected


def test_drawing_follows_many_small_weights() -> None:
    rng = np.random.default_rng(5)
    weights = rng.dirichlet(np.ones(128_256)).astype(np.float32)
    uniforms = rng.random(64).astype(np.float32)
    picked = np.array(draw(mx.broadcast_to(mx.array(weights), (64, 128_256)), mx.array(uniforms)))
    sums = np.cumsum(weights.astype(np.float64))
    assert np.abs(sums[picked] / sums[-1] - uniforms).max() < 1e-4
