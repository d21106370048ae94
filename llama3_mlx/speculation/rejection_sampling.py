"""Accepting drafted tokens by rejection sampling: on the device, without a host round trip, for any number of rows.

Rows of a batch are verified together: every function takes any leading dimensions, written `...` in its shapes, and
`lengths` (...) where the rows' drafts have different lengths and are padded to L.
"""

import mlx.core as mx


def accept_sampled(
    target: mx.array,
    proposal: mx.array,
    draft: mx.array,
    uniforms: mx.array,
    after_uniforms: mx.array,
    lengths: mx.array | None = None,
) -> tuple[mx.array, mx.array]:
    """Return how many leading draft tokens are accepted and the token after them, each (...).

    `target` (..., L + 1, V) and `proposal` (..., L, V) are probabilities, `draft` (..., L) was drawn from `proposal`.
    Token x of position i is accepted with probability min(1, p_i(x) / q_i(x)); the token after the last accepted one is
    drawn from max(p - q, 0) there, or from p where all are accepted. The generated text is then distributed as by the
    target alone. `uniforms` (..., L) from [0, 1) accept the drafted tokens; `after_uniforms` (..., L + 1) draw the
    token after the accepted ones, each at its own position, so that no number decides two tokens of a text.

    Source: https://arxiv.org/abs/2211.17192, algorithm 1; https://arxiv.org/abs/2302.01318, algorithm 2.
    """
    p = _probability(target[..., :-1, :], draft)
    q = _probability(proposal, draft)
    # Strictly less: a token to which the target gives no probability is never accepted.
    count = _leading(uniforms * q < p, lengths)
    after = _row(target, count)
    drafted = draft.shape[-1] if lengths is None else lengths
    if draft.shape[-1]:
        against = _row(proposal, mx.minimum(count, draft.shape[-1] - 1))
        rest = mx.maximum(after - mx.where((count < drafted)[..., None], against, 0.0), 0.0)
        # Nothing is left only where p equals q and rounding refused: then p itself is right.
        after = mx.where(rest.sum(axis=-1, keepdims=True) > 0, rest, after)
    return count, draw(after, mx.take_along_axis(after_uniforms, count[..., None], axis=-1).squeeze(-1))


def draw(weights: mx.array, uniform: mx.array) -> mx.array:
    """Return the index (...) that `uniform` (...) of [0, 1) picks by the inverse CDF of weights (..., V).

    The weights needn't sum to one. An index of weight 0 is never picked, however the sums are rounded.
    """
    sums = mx.cumsum(weights.astype(mx.float32), axis=-1)
    beyond = (sums > uniform[..., None] * sums[..., -1:]) & (weights > 0)
    return mx.where(beyond.any(axis=-1), mx.argmax(beyond, axis=-1), mx.argmax(weights, axis=-1)).astype(mx.int32)


def _leading(accepted: mx.array, lengths: mx.array | None) -> mx.array:
    """Count what is accepted before the first that isn't, (..., L) to (...) int32."""
    if lengths is not None:
        accepted = accepted & (mx.arange(accepted.shape[-1]) < lengths[..., None])
    return mx.cumprod(accepted.astype(mx.int32), axis=-1).sum(axis=-1).astype(mx.int32)


def _probability(distributions: mx.array, tokens: mx.array) -> mx.array:
    """Return the probabilities (..., L) of tokens (..., L) in distributions (..., L, V)."""
    return mx.take_along_axis(distributions, tokens[..., None], axis=-1).squeeze(-1)


def _row(distributions: mx.array, at: mx.array) -> mx.array:
    """Return one distribution (..., V) of each (..., L, V)."""
    return mx.take_along_axis(distributions, at[..., None, None], axis=-2).squeeze(-2)
