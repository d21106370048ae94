"""Turns logits into the next token. Order: repetition penalty, temperature, top-k, top-p, min-p, as transformers."""

from collections.abc import Callable

import mlx.core as mx

from .options import GenerationOptions

Sampler = Callable[[mx.array, mx.array], mx.array]


def make_sampler(options: GenerationOptions) -> Sampler:
    """Return a function from logits (B, V) and a random key to tokens (B,), all on the device."""
    if not options.temperature:
        return lambda logits, _: mx.argmax(logits, axis=-1)
    temperature, top_k, top_p, min_p = options.temperature, options.top_k or 0, options.top_p, options.min_p

    def sample(logits: mx.array, key: mx.array) -> mx.array:
        logits = logits.astype(mx.float32) * (1 / temperature)
        if 0 < top_k < logits.shape[-1]:
            logits = keep_top_k(logits, top_k)
        if top_p is not None and top_p < 1:
            logits = keep_top_p(logits, top_p)
        if min_p:
            logits = keep_min_p(logits, min_p)
        return mx.random.categorical(logits, key=key)

    return sample


def keep_top_k(logits: mx.array, k: int) -> mx.array:
    """Set all but the k largest logits of each row to -inf (ties with the k-th stay)."""
    kth = mx.topk(logits, k, axis=-1).min(axis=-1, keepdims=True)
    return mx.where(logits < kth, -mx.inf, logits)


def keep_top_p(logits: mx.array, p: float) -> mx.array:
    """Keep the smallest set of likeliest tokens whose probability reaches p, the one that crosses p included.

    Source: https://arxiv.org/abs/1904.09751; Meta's llama3 `sample_top_p`.
    """
    ordered = -mx.sort(-mx.softmax(logits, axis=-1), axis=-1)
    before = mx.cumsum(ordered, axis=-1) - ordered
    least = mx.where(before <= p, ordered, mx.inf).min(axis=-1, keepdims=True)
    return mx.where(mx.softmax(logits, axis=-1) < least, -mx.inf, logits)


def keep_min_p(logits: mx.array, p: float) -> mx.array:
    """Leave out tokens less likely than p times the likeliest. Source: https://arxiv.org/abs/2407.01082."""
    return mx.where(logits < logits.max(axis=-1, keepdims=True) + mx.log(mx.array(p)), -mx.inf, logits)


def penalise_repetition(logits: mx.array, recent: mx.array, penalty: float) -> mx.array:
    """Divide positive and multiply negative logits (B, V) of the `recent` tokens (B, n) by the penalty.

    Source: https://arxiv.org/abs/1909.05858.
    """
    scores = mx.take_along_axis(logits, recent, axis=-1)
    scores = mx.where(scores > 0, scores / penalty, scores * penalty)
    return mx.put_along_axis(logits, recent, scores, axis=-1)


def step_key(seed: int, step: int) -> mx.array:
    """Return the random key of one step of one request, the same whoever else is in the batch."""
    return mx.array([(seed ^ (seed >> 32)) & 0xFFFFFFFF, step], dtype=mx.uint32)
