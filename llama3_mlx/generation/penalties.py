"""What changes the logits of one answer by the tokens before: penalties, and the caller's own bias."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import mlx.core as mx

from ..errors import RequestError
from .options import GenerationOptions


@dataclass(frozen=True)
class Penalties:
    """Settings and the tokens so far, on the device; `add` gives a new one, so that drafts can be tried and dropped.

    `recent` (n,) are the tokens that the repetition penalty looks at, prompt included; `counts` (V,) how often each
    token was generated in the answer, for presence and frequency penalties.
    """

    repetition: float
    window: int
    presence: float
    frequency: float
    bias: mx.array | None
    recent: mx.array | None
    counts: mx.array | None

    def apply(self, logits: mx.array) -> mx.array:
        """Return the changed logits (1, V)."""
        if self.bias is not None:
            logits = logits + self.bias
        if self.recent is not None:
            logits = penalize_repetition(logits, self.recent[None], self.repetition)
        if self.counts is not None:
            logits = logits - (self.frequency * self.counts + self.presence * (self.counts > 0)).astype(logits.dtype)
        return logits

    def add(self, token: mx.array) -> "Penalties":
        """Return the penalties after one more token (1,)."""
        recent, counts = self.recent, self.counts
        if recent is not None:
            recent = mx.concatenate([recent, token.astype(recent.dtype)])[-self.window :]
        if counts is not None:
            counts = counts.at[token].add(1.0)
        return replace(self, recent=recent, counts=counts)


def make_penalties(options: GenerationOptions, prompt: Sequence[int], n_vocab: int) -> Penalties | None:
    """Return what the options ask for, None where that is nothing."""
    repetition = options.repetition_penalty or 1.0
    counted = bool(options.presence_penalty or options.frequency_penalty)
    bias = dict(options.logit_bias)
    if repetition == 1.0 and not counted and not bias:
        return None
    wrong = [token for token in bias if not 0 <= token < n_vocab]
    if wrong:
        raise RequestError(f"logit_bias names token {wrong[0]}, which is outside the vocabulary of {n_vocab}")
    added = mx.zeros(n_vocab)
    if bias:
        added[mx.array(list(bias))] = mx.array(list(bias.values()))
    return Penalties(
        repetition=repetition,
        window=options.repetition_window,
        presence=options.presence_penalty,
        frequency=options.frequency_penalty,
        bias=added if bias else None,
        recent=mx.array(list(prompt[-options.repetition_window :]), mx.int32) if repetition != 1.0 else None,
        counts=mx.zeros(n_vocab) if counted else None,
    )


def penalize_repetition(logits: mx.array, recent: mx.array, penalty: float) -> mx.array:
    """Divide positive and multiply negative logits (B, V) of the `recent` tokens (B, n) by the penalty.

    Source: https://arxiv.org/abs/1909.05858.
    """
    scores = mx.take_along_axis(logits, recent, axis=-1)
    scores = mx.where(scores > 0, scores / penalty, scores * penalty)
    return mx.put_along_axis(logits, recent, scores, axis=-1)
