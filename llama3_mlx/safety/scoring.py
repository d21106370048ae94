"""Probabilities of an answer's tokens at chosen positions, in one pass over the prompt and with a few rows of the head.

An answer of a Llama Guard can hold some twenty tokens, so no more rows of the head are multiplied than those.
"""

from collections.abc import Sequence

import mlx.core as mx

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
            mx.softmax(self._model.token_logits(h[position - start], tokens).astype(mx.float32))
            for position, tokens in asked
        ]
        mx.eval(shares)
        self._known = list(ids)
        return [share.tolist() for share in shares]  # type: ignore[misc]

    def _shared(self, ids: Sequence[int]) -> int:
        both = zip(self._known, ids, strict=False)
        return next((at for at, (one, two) in enumerate(both) if one != two), min(len(self._known), len(ids)))
