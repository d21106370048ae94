"""How far a quantised model is from its source: KL divergence, perplexity, agreement on the likeliest token."""

from collections.abc import Sequence
from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from ...model import LlamaForCausalLM


@dataclass(frozen=True)
class Distance:
    """Means over tokens; KL in nats from the source to the quantised model."""

    kl: float
    perplexity: float
    source_perplexity: float
    top1_agreement: float
    tokens: int


def measure(source: LlamaForCausalLM, model: LlamaForCausalLM, windows: Sequence[Sequence[int]]) -> Distance:
    """Compare two models on windows of token ids; logits of one window at a time are in memory."""
    totals = np.zeros(4)
    count = 0
    for window in windows:
        tokens = mx.array([list(window)])
        p, q = (_logprobs(each, tokens) for each in (source, model))
        kl = (mx.exp(p) * (p - q)).sum(axis=-1)[:-1].sum()
        nll = [-mx.take_along_axis(each[:-1], tokens[0, 1:, None], axis=-1).sum() for each in (p, q)]
        same = (p[:-1].argmax(axis=-1) == q[:-1].argmax(axis=-1)).sum()
        totals += np.array([kl.item(), nll[0].item(), nll[1].item(), same.item()], dtype=np.float64)
        count += len(window) - 1
    kl_sum, source_nll, nll_sum, agreed = totals / count
    return Distance(float(kl_sum), float(np.exp(nll_sum)), float(np.exp(source_nll)), float(agreed), count)


def windows_of(ids: Sequence[int], length: int, count: int | None = None) -> list[list[int]]:
    """Cut token ids into whole windows, the first `count` of them."""
    cuts = [list(ids[start : start + length]) for start in range(0, len(ids) - length + 1, length)]
    return cuts[:count]


def _logprobs(model: LlamaForCausalLM, tokens: mx.array) -> mx.array:
    logits = model(tokens)[0].astype(mx.float32)
    return logits - mx.logsumexp(logits, axis=-1, keepdims=True)
