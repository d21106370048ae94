"""What drafts the tokens of one sequence: prompt lookup in its text so far, a smaller model, or a draft head."""

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol, cast

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten

from ..generation.sampling import Sampling
from ..kv_cache import ModelCache
from ..model.feature_tap import FeatureTap
from ..model.transformer import LlamaForCausalLM
from ..prefix_cache.memory import common_length
from .draft import Draft, sample_drafted
from .draft_length import Costs, DraftLength
from .eagle_head import EagleHead
from .eagle_speculator import EagleSpeculator
from .lookup_drafter import LookupDrafter

_PREFILL_CHUNK = 2048
_TIMINGS = 16
# Upper bounds of the assumed cost of a drafted token, in text from the prompt and in repetitions of the answer. Only
# back ends that gain nothing from several rows cost more: there copied text is generated at about 0.9 of the plain rate
# in half of the passes, and free text at the plain rate (counted over the answers to benchmarks/prompts.py).
_PROMPT_COST, _OWN_COST = 0.35, 0.7
# On the CPU a position costs nearly as much in a pass of several as alone; on a GPU decoding is bound by memory.
# Constants for draft models: where drafts are sampled, their lengths must not depend on a clock. Lookups measure.
CPU_COSTS, GPU_COSTS = Costs(verify=0.2), Costs(verify=0.03)


def verify_cost(model: LlamaForCausalLM) -> float:
    """Time one layer's MLP, where most of a step goes, on one position and on several; takes milliseconds.

    Returns the cost of one more position in a forward pass, in plain steps: next to nothing where decoding is bound by
    memory, a whole one where a matrix product gains nothing from several rows, as MLX's quantized one on the CPU.
    """
    mlp, more = model.model.layers[0].mlp, 4
    dtype = model.model.norm.weight.dtype
    one, several = (mx.zeros((1, n, model.config.hidden_size), dtype) for n in (1, 1 + more))
    best = [float("inf")] * 2
    for _ in range(_TIMINGS):
        for index, x in enumerate((one, several)):
            began = time.perf_counter()
            mx.eval(mlp(x))
            best[index] = min(best[index], time.perf_counter() - began)
    return min(1.0, max(GPU_COSTS.verify, (best[1] / best[0] - 1) / more))


class Speculator(Protocol):
    """Drafts the tokens of one sequence."""

    def is_likely(self, pending: int) -> bool:
        """Return whether a draft is to be expected once the `pending` tokens on the device are known."""

    def draft(self, max_tokens: int, sampling: Sampling, seed: int, step: int) -> Draft:
        """Return up to `max_tokens` tokens to follow the generated ones."""

    def add(self, tokens: Sequence[int]) -> None:
        """Add the generated tokens of one forward pass."""

    def record(self, drafted: int, accepted: int) -> None:
        """Record how many of the drafted tokens were accepted."""

    def watch(self, states: mx.array) -> None:
        """Take the tapped hidden states (1, n, width) of the next positions that the model has run."""


class LookupSpeculator:
    """Drafts what followed the last tokens where they occurred before, in the prompt or in the generated text."""

    def __init__(self, prompt: Sequence[int], verify: float) -> None:
        """`verify` is the cost of verifying a drafted token; see `verify_cost`."""
        costs, own_costs = Costs(verify=min(verify, _PROMPT_COST)), Costs(verify=min(verify, _OWN_COST))
        self._drafter = LookupDrafter(prompt, costs=costs, own_costs=own_costs)

    def is_likely(self, pending: int) -> bool:
        """Return whether the text repeats itself here and drafting pays."""
        return len(self._drafter.draft()) > pending

    def draft(self, max_tokens: int, sampling: Sampling, seed: int, step: int) -> Draft:
        """Return the continuation of the place that the end of the text repeats."""
        return Draft(self._drafter.draft(max_tokens))

    def add(self, tokens: Sequence[int]) -> None:
        """Add generated tokens; the drafter sees which of them it would have drafted."""
        self._drafter.add(tokens)

    def record(self, drafted: int, accepted: int) -> None:
        """Nothing: the drafter has seen it."""

    def watch(self, states: mx.array) -> None:
        """Nothing: drafts follow from the tokens alone."""


class ModelSpeculator:
    """Drafts with a smaller model of the same vocabulary."""

    def __init__(self, model: LlamaForCausalLM, prompt: Sequence[int], costs: Costs) -> None:
        self._model, self._tokens = model, list(prompt)
        self._cache: ModelCache = model.make_cache()
        self._cached: list[int] = []
        self._length = DraftLength(costs)

    def is_likely(self, pending: int) -> bool:
        """Return whether drafting is switched on."""
        return self._length.length > 0

    def draft(self, max_tokens: int, sampling: Sampling, seed: int, step: int) -> Draft:
        """Return what the small model generates; the device computes the whole draft before the host reads it."""
        n = min(max_tokens, self._length.length)
        if n < 1:
            return Draft()
        logits, sampled, proposals = self._catch_up(), [], []
        for index in range(n):
            token, proposal = sample_drafted(logits, sampling, seed, step + index)
            sampled.append(token)
            if proposal is not None:
                proposals.append(proposal)
            if index + 1 < n:
                logits = self._model.head(self._model.hidden(token[:, None], self._cache)[:, -1])
        tokens = cast(list[int], mx.concatenate(sampled).tolist())
        self._cached += tokens[:-1]
        return Draft(tokens, mx.concatenate(proposals) if proposals else None)

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

    def add(self, tokens: Sequence[int]) -> None:
        """Add the generated tokens of one forward pass."""
        self._tokens += tokens
        self._length.skip()

    def record(self, drafted: int, accepted: int) -> None:
        """Adapt the length of drafts."""
        self._length.record(drafted, accepted)

    def watch(self, states: mx.array) -> None:
        """Nothing: drafts follow from the tokens alone."""


class Speculators:
    """Makes the speculator of each sequence: by the draft model or head if there is one, else by prompt lookup."""

    def __init__(
        self, model: LlamaForCausalLM, draft: LlamaForCausalLM | EagleHead | None, *, cheap_verification: bool
    ) -> None:
        self._model, self._draft = model, draft
        self.draft_costs = GPU_COSTS if cheap_verification else CPU_COSTS
        if draft is not None:
            self.draft_costs = replace(self.draft_costs, draft=_step_bytes(draft) / max(1, _step_bytes(model)))
        self.tap: FeatureTap | None = None
        """What the model's passes must be run with; None where no hidden states are needed."""
        if isinstance(draft, EagleHead):
            self.tap = FeatureTap(draft.config.depths_in(model.config.num_hidden_layers))
        self._verify_cost: float | None = None

    def watcher(self, prompt: Sequence[int], start: int) -> EagleSpeculator | None:
        """Return what watches the hidden states of a prompt from position `start` on; None where none are needed."""
        if not isinstance(self._draft, EagleHead):
            return None
        return EagleSpeculator(self._draft, self._model.model.embed_tokens, prompt, start, self.draft_costs)

    def make(self, prompt: Sequence[int], watcher: EagleSpeculator | None = None) -> Speculator:
        """Return the speculator of a sequence that begins with `prompt`; on the first call measures its cost.

        `watcher` has watched the prompt, where hidden states are needed.
        """
        if watcher is not None:
            return watcher.copy()
        if isinstance(self._draft, EagleHead):
            # Of an answer that ended before its prompt was run.
            return EagleSpeculator(self._draft, self._model.model.embed_tokens, prompt, len(prompt), self.draft_costs)
        if self._draft is not None:
            return ModelSpeculator(self._draft, prompt, self.draft_costs)
        if self._verify_cost is None:
            self._verify_cost = verify_cost(self._model)
        return LookupSpeculator(prompt, self._verify_cost)


def _step_bytes(model: LlamaForCausalLM | EagleHead) -> int:
    """Return the bytes of weights that a step reads: all but an embedding of which it reads one row."""
    weights = cast(list[tuple[str, mx.array]], tree_flatten(model.parameters()))
    tied = isinstance(model, LlamaForCausalLM) and "lm_head" not in model
    return sum(array.nbytes for name, array in weights if tied or "embed_tokens." not in name)
