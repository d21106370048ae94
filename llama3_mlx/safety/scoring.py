"""Probabilities of an answer's tokens at chosen positions, in one pass over the prompt and with a few rows of the head.

An answer of a Llama Guard can hold some twenty tokens, so no more rows of the head are multiplied than those.
"""

from collections.abc import Sequence

import mlx.core as mx
import mlx.nn as nn

from ..kv_cache import ModelCache
from ..model.transformer import LlamaForCausalLM


class AnswerScorer:
    """Scores answers to prompts that begin alike; what they share is computed once. Runs on the engine's thread."""

    def __init__(self, model: LlamaForCausalLM) -> None:
        self._model = model
        self._known: list[int] = []
        self._cache: ModelCache = model.make_cache()

    def probabilities(self, ids: Sequence[int], asked: Sequence[tuple[int, Sequence[int]]]) -> list[list[float]]:
        """Return for each (position, tokens) how the tokens share the probability of being next after the position."""
        start = self._shared(ids)
        first = min(position for position, _ in asked)
        start = min(start, first)
        if self._cache.lengths:
            self._cache.trim(start)
        h = self._model.hidden(mx.array([list(ids[start:])], mx.int32), self._cache)[0]
        shares = [
            mx.softmax((h[position - start] @ head_rows(self._model, tokens).T).astype(mx.float32))
            for position, tokens in asked
        ]
        mx.eval(shares)
        self._known = list(ids)
        return [share.tolist() for share in shares]  # type: ignore[misc]

    def _shared(self, ids: Sequence[int]) -> int:
        both = zip(self._known, ids, strict=False)
        return next((at for at, (one, two) in enumerate(both) if one != two), min(len(self._known), len(ids)))


def head_rows(model: LlamaForCausalLM, tokens: Sequence[int]) -> mx.array:
    """Return the rows (n, D) of the head for these tokens, dequantized where it is quantized."""
    ids = mx.array(list(tokens), mx.int32)
    if "lm_head" not in model:
        return model.model.embed_tokens(ids)
    head = model.lm_head
    if isinstance(head, nn.QuantizedLinear):
        biases = head.get("biases")
        return mx.dequantize(
            head.weight[ids],
            head.scales[ids],
            None if biases is None else biases[ids],
            group_size=head.group_size,
            bits=head.bits,
            mode=head.mode,
        )
    return head.weight[ids]
