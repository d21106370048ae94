"""What drafts tokens for one row: out of the text so far, or by a smaller model."""

import time
from collections.abc import Sequence
from typing import Protocol, cast

import mlx.core as mx
import numpy as np

from ..generation.sampling import Sampling, pick, probabilities, uniforms
from ..kv_cache import ModelCache
from ..model.transformer import LlamaForCausalLM
from ..prefix_cache.memory import common_length
from .draft_length import Costs, DraftLength
from .lookup_drafter import LookupDrafter

PREFILL_CHUNK = 2048
_TIMINGS = 16
# What a drafted token is taken to cost at most, in text from the prompt and in repetitions of the answer. Only back
# ends that gain nothing from several rows cost more: there copied text is written at about 0.9 of the plain rate in
# half of the passes, and free text at the plain rate (counted over the answers to benchmarks/prompts.py).
_PROMPT_COST, _OWN_COST = 0.35, 0.7
# On the CPU a position costs nearly as much in a pass of several as alone; on a GPU decoding waits for memory.
# They are for draft models: where drafts are drawn, their lengths must not depend on a clock. Lookups measure.
CPU_COSTS, GPU_COSTS = Costs(verify=0.2), Costs(verify=0.03)


def verify_cost(model: LlamaForCausalLM) -> float:
    """Time one layer's MLP, where most of a step goes, on one position and on several; takes milliseconds.

    Returns what a position more adds to a pass, in plain steps: next to nothing where decoding waits for memory, a
    whole one where a matrix product gains nothing from several rows, as MLX's quantized one on the CPU.
    """
    mlp, more = model.model.layers[0].mlp, 4
    dtype = model.model.norm.weight.dtype
    one, several = (mx.zeros((1, n, model.config.hidden_size), dtype) for n in (1, 1 + more))
    best = [float("inf")] * 2
    for _ in range(_TIMINGS):
        for at, x in enumerate((one, several)):
            began = time.perf_counter()
            mx.eval(mlp(x))
            best[at] = min(best[at], time.perf_counter() - began)
    return min(1.0, max(GPU_COSTS.verify, (best[1] / best[0] - 1) / more))


class Draft:
    """Tokens that may come next, and the distributions (n, V) they were drawn from where they were drawn."""

    def __init__(self, tokens: Sequence[int] = (), proposal: mx.array | None = None) -> None:
        self.tokens, self.proposal = list(tokens), proposal

    def cut(self, n: int) -> "Draft":
        """Return the first `n` tokens of it."""
        return Draft(self.tokens[:n], None if self.proposal is None else self.proposal[:n])


class Speculator(Protocol):
    """Drafts for one row."""

    def likely(self, ahead: int) -> bool:
        """Whether a draft is to be expected once the `ahead` tokens that are on their way are known."""

    def draft(self, most: int, sampling: Sampling, seed: int, step: int) -> Draft:
        """Return up to `most` tokens to follow those that were written."""

    def wrote(self, tokens: Sequence[int]) -> None:
        """Take what was written in one pass."""

    def record(self, drafted: int, accepted: int) -> None:
        """Take how many of the drafted tokens were accepted."""


class LookupSpeculator:
    """Drafts what followed the last tokens where they stood before, in the prompt or in what was written."""

    def __init__(self, prompt: Sequence[int], verify: float) -> None:
        """`verify` is what a drafted token costs to verify; see `verify_cost`."""
        costs, own_costs = Costs(verify=min(verify, _PROMPT_COST)), Costs(verify=min(verify, _OWN_COST))
        self._drafter = LookupDrafter(prompt, costs=costs, own_costs=own_costs)

    def likely(self, ahead: int) -> bool:
        """Whether the text repeats itself here and drafting pays."""
        return len(self._drafter.draft()) > ahead

    def draft(self, most: int, sampling: Sampling, seed: int, step: int) -> Draft:
        """Return the continuation of the place that the end of the text repeats."""
        return Draft(self._drafter.draft(most))

    def wrote(self, tokens: Sequence[int]) -> None:
        """Take what was written; the drafter sees what of it it would have drafted."""
        self._drafter.add(tokens)

    def record(self, drafted: int, accepted: int) -> None:
        """Nothing: the drafter has seen it."""


class ModelSpeculator:
    """Drafts with a smaller model of the same vocabulary."""

    def __init__(self, model: LlamaForCausalLM, prompt: Sequence[int], costs: Costs) -> None:
        self._model, self._tokens = model, list(prompt)
        self._cache: ModelCache = model.make_cache()
        self._run: list[int] = []
        self._length = DraftLength(costs)

    def likely(self, ahead: int) -> bool:
        """Whether drafting is switched on."""
        return self._length.length > 0

    def draft(self, most: int, sampling: Sampling, seed: int, step: int) -> Draft:
        """Return what the small model writes; the device works through the whole draft before the host reads it."""
        n = min(most, self._length.length)
        if n < 1:
            return Draft()
        logits, chosen, proposals = self._catch_up(), [], []
        for at in range(n):
            if sampling.greedy:
                token = mx.argmax(logits, axis=-1)
            else:
                numbers = uniforms(seed, step + at)
                proposal = probabilities(sampling, logits, mx.array([numbers], mx.float32))
                token = pick(proposal, mx.array([[numbers[3]]], mx.float32))
                proposals.append(proposal)
            chosen.append(token.astype(mx.int32))
            if at + 1 < n:
                logits = self._model.head(self._model.hidden(chosen[-1][:, None], self._cache)[:, -1])
        tokens = cast(list[int], mx.concatenate(chosen).tolist())
        self._run += tokens[:-1]
        return Draft(tokens, mx.concatenate(proposals) if proposals else None)

    def _catch_up(self) -> mx.array:
        """Run what was written since the last draft; return the logits (1, V) behind it."""
        known = common_length(np.asarray(self._run, np.int64), np.asarray(self._tokens[:-1], np.int64))
        if self._cache.lengths:
            self._cache.trim(known)
        missing = self._tokens[known:]
        for at in range(0, len(missing), PREFILL_CHUNK):
            h = self._model.hidden(mx.array([missing[at : at + PREFILL_CHUNK]], mx.int32), self._cache)
            if at + PREFILL_CHUNK < len(missing):
                mx.eval(self._cache.arrays)
        self._run = list(self._tokens)
        return self._model.head(h[:, -1])

    def wrote(self, tokens: Sequence[int]) -> None:
        """Take what was written in one pass."""
        self._tokens += tokens
        self._length.skip()

    def record(self, drafted: int, accepted: int) -> None:
        """Adapt the length of drafts."""
        self._length.record(drafted, accepted)
