"""Turns logits into tokens. Order: logit bias, penalties, grammar, temperature, top-k, typical, top-p, min-p, XTC.

A token is chosen by the inverse of the cumulative distribution at one uniform number, which the host makes from seed
and step alone: the same seed gives the same text, alone or in a batch, speculated or not.
"""

import hashlib
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import lru_cache

import mlx.core as mx

from .options import GenerationOptions

# Uniform numbers of one step: for the token, for XTC, and for what a speculated token needs besides.
UNIFORMS = 4
Sampler = Callable[[mx.array, mx.array], mx.array]


@dataclass(frozen=True)
class Sampling:
    """The settings that shape a distribution; sequences with equal ones are sampled in one call."""

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    typical_p: float = 1.0
    xtc_probability: float = 0.0
    xtc_threshold: float = 0.1
    xtc_exempt: tuple[int, ...] = ()
    """Tokens that XTC never excludes."""

    @classmethod
    def from_options(cls, options: GenerationOptions, xtc_exempt: Collection[int] = ()) -> "Sampling":
        """Take what concerns sampling; greedy ones are all equal. XTC never excludes the tokens `xtc_exempt`."""
        if not options.temperature:
            return cls()
        return cls(
            options.temperature,
            options.top_k or 0,
            1.0 if options.top_p is None else options.top_p,
            options.min_p,
            options.typical_p,
            options.xtc_probability,
            options.xtc_threshold,
            tuple(sorted(xtc_exempt)) if options.xtc_probability else (),
        )

    @property
    def greedy(self) -> bool:
        """Whether the most likely token is taken."""
        return self.temperature == 0


@lru_cache(maxsize=64)
def make_sampler(settings: Sampling) -> Sampler:
    """Return a function from logits (B, V) and uniforms (B, UNIFORMS) to tokens (B,), all on the device."""
    if settings.greedy:
        return lambda logits, _: mx.argmax(logits, axis=-1)
    return lambda logits, uniforms: pick(probabilities(settings, logits, uniforms), uniforms[:, :1])


def probabilities(settings: Sampling, logits: mx.array, uniforms: mx.array) -> mx.array:
    """Return the distribution (B, V) that is sampled from, float32; greedy: one on the most likely token."""
    if settings.greedy:
        return (mx.arange(logits.shape[-1]) == mx.argmax(logits, axis=-1, keepdims=True)).astype(mx.float32)
    logits = logits.astype(mx.float32) * (1 / settings.temperature)
    if 0 < settings.top_k < logits.shape[-1]:
        logits = keep_top_k(logits, settings.top_k)
    if settings.typical_p < 1:
        logits = keep_typical(logits, settings.typical_p)
    if settings.top_p < 1:
        logits = keep_top_p(logits, settings.top_p)
    if settings.min_p:
        logits = keep_min_p(logits, settings.min_p)
    if settings.xtc_probability:
        out = exclude_top_choices(logits, settings.xtc_threshold, settings.xtc_exempt)
        logits = mx.where(uniforms[:, 1:2] < settings.xtc_probability, out, logits)
    return mx.softmax(logits, axis=-1)


def pick(distribution: mx.array, uniform: mx.array) -> mx.array:
    """Return the tokens (B,) at which the cumulative distribution (B, V) passes the uniform numbers (B, 1)."""
    reached = mx.cumsum(distribution, axis=-1)
    return mx.argmax(reached > uniform * reached[..., -1:], axis=-1)


def keep_top_k(logits: mx.array, k: int) -> mx.array:
    """Set all but the k largest logits of each row to -inf (ties with the k-th stay)."""
    kth = mx.topk(logits, k, axis=-1).min(axis=-1, keepdims=True)
    return mx.where(logits < kth, -mx.inf, logits)


def keep_top_p(logits: mx.array, p: float) -> mx.array:
    """Keep the smallest set of most likely tokens whose probability reaches p, the one that crosses p included.

    Source: https://arxiv.org/abs/1904.09751; Meta's llama3 `sample_top_p`.
    """
    shares = mx.softmax(logits, axis=-1)
    ordered = -mx.sort(-shares, axis=-1)
    before = mx.cumsum(ordered, axis=-1) - ordered
    least = mx.where(before <= p, ordered, mx.inf).min(axis=-1, keepdims=True)
    return mx.where(shares < least, -mx.inf, logits)


def keep_min_p(logits: mx.array, p: float) -> mx.array:
    """Leave out tokens less likely than p times the most likely one. Source: https://arxiv.org/abs/2407.01082."""
    return mx.where(logits < logits.max(axis=-1, keepdims=True) + mx.log(mx.array(p)), -mx.inf, logits)


def keep_typical(logits: mx.array, p: float) -> mx.array:
    """Keep the tokens whose surprise is nearest to the entropy, until their probability reaches p.

    Source: https://arxiv.org/abs/2202.00666; the token that crosses p is kept, as in transformers.
    """
    logprobs = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
    shares = mx.exp(logprobs)
    entropy = -mx.where(shares > 0, shares * logprobs, 0.0).sum(axis=-1, keepdims=True)
    distance = mx.abs(-logprobs - entropy)
    order = mx.argsort(distance, axis=-1)
    reached = mx.cumsum(mx.take_along_axis(shares, order, axis=-1), axis=-1)
    last = mx.minimum((reached < p).sum(axis=-1, keepdims=True), logits.shape[-1] - 1)
    limit = mx.take_along_axis(distance, mx.take_along_axis(order, last, axis=-1), axis=-1)
    return mx.where(distance > limit, -mx.inf, logits)


def exclude_top_choices(logits: mx.array, threshold: float, exempt: Sequence[int] = ()) -> mx.array:
    """Leave out all tokens of at least `threshold` probability but the least likely of them, where there are several.

    The tokens `exempt` stay: without its end-of-text and newline tokens a model couldn't end what it writes.

    Source: https://github.com/oobabooga/text-generation-webui/pull/6335 (XTC); mlx-lm's `xtc_special_tokens`.
    """
    shares = mx.softmax(logits, axis=-1)
    least = mx.where(shares >= threshold, shares, mx.inf).min(axis=-1, keepdims=True)
    excluded = shares > least
    if exempt:
        excluded[..., mx.array(list(exempt))] = False
    return mx.where(excluded, -mx.inf, logits)


def uniforms(seed: int, step: int) -> list[float]:
    """Return UNIFORMS numbers of [0, 1) for one step of one request, exact in float32."""
    digest = hashlib.blake2b(seed.to_bytes(8, "little") + step.to_bytes(8, "little"), digest_size=4 * UNIFORMS).digest()
    return [(int.from_bytes(digest[at : at + 4], "little") >> 8) / 2**24 for at in range(0, 4 * UNIFORMS, 4)]
