"""Drafts the tokens of one sequence with a smaller model of the same vocabulary."""

from collections.abc import Sequence
from typing import cast

import mlx.core as mx
import numpy as np

from ..kv_cache import ModelCache
from ..model.transformer import LlamaForCausalLM
from ..prefix_cache.memory import common_length
from .draft import MODEL, Draft, SamplingPoint, sample_drafted
from .draft_length import Costs, DraftLength

_PREFILL_CHUNK = 2048


class ModelSpeculator:
    """Drafts with a smaller model; `length` says how far."""

    def __init__(self, model: LlamaForCausalLM, prompt: Sequence[int], costs: Costs) -> None:
        self._model, self._tokens = model, list(prompt)
        self._cache: ModelCache = model.make_cache()
        self._cached: list[int] = []
        self.length = DraftLength(costs)

    def draft(self, n: int, point: SamplingPoint) -> Draft:
        """Return `n` tokens, at least one; the device computes the whole draft before the host reads it."""
        (sampling, seed, step), logits = point, self._catch_up()
        sampled: list[mx.array] = []
        proposals: list[mx.array] = []
        for index in range(n):
            token, (proposal,) = sample_drafted(logits, [(sampling, seed, step + index)])
            sampled.append(token)
            if proposal is not None:
                proposals.append(proposal)
            if index + 1 < n:
                logits = self._model.head(self._model.hidden(token[:, None], self._cache)[:, -1])
        tokens = cast(list[int], mx.concatenate(sampled).tolist())
        self._cached += tokens[:-1]
        return Draft(tokens, mx.concatenate(proposals) if proposals else None, MODEL)

    def add(self, tokens: Sequence[int]) -> None:
        """Add the generated tokens of one forward pass."""
        self._tokens += tokens

    def _catch_up(self) -> mx.array:
        """Run the tokens since the last draft; return the logits (1, V) after them."""
        known = common_length(np.asarray(self._cached, np.int64), np.asarray(self._tokens[:-1], np.int64))
        if self._cache.lengths:
            self._cache.trim(known)
        missing = self._tokens[known:]
        for start in range(0, len(missing), _PREFILL_CHUNK):
            h = self._model.hidden(mx.array([missing[start : start + _PREFILL_CHUNK]], mx.int32), self._cache)
            if start + _PREFILL_CHUNK < len(missing):
                mx.eval(self._cache.arrays)
        self._cached = list(self._tokens)
        return self._model.head(h[:, -1])
