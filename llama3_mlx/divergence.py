"""How far two models' predictions are apart, position by position; all in float32, logarithms natural."""

import mlx.core as mx


def log_probabilities(logits: mx.array) -> mx.array:
    """Return log-probabilities (..., V) float32 of logits."""
    logits = logits.astype(mx.float32)
    return logits - mx.logsumexp(logits, axis=-1, keepdims=True)


def kl_divergence(p: mx.array, q: mx.array) -> mx.array:
    """Return the KL divergence (...) from the first to the second log-probabilities (..., V), in nats."""
    return (mx.exp(p) * (p - q)).sum(axis=-1)


def same_top(p: mx.array, q: mx.array) -> mx.array:
    """Return where (...) two predictions (..., V) have the same most likely token."""
    return p.argmax(axis=-1) == q.argmax(axis=-1)


def token_logprobs(logprobs: mx.array, tokens: mx.array) -> mx.array:
    """Return the log-probability of a token (...) in each prediction (..., V)."""
    return mx.take_along_axis(logprobs, tokens[..., None], axis=-1)[..., 0]
