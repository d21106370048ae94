"""What drafts the tokens of one sequence: prompt lookup in its text so far, and a draft model or head, if any."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import cast

import mlx.core as mx
from mlx.utils import tree_flatten

from ..model.feature_tap import FeatureTap
from ..model.transformer import LlamaForCausalLM
from ..prefix_cache.memory import HeadEntries
from .draft import LOOKUP, Draft, SamplingPoint
from .draft_length import Costs
from .eagle_drafter import DraftOrder, EagleDrafter
from .eagle_head import EagleHead
from .eagle_speculator import EagleSpeculator
from .lookup_drafter import LookupDrafter
from .model_speculator import ModelSpeculator
from .pass_costs import PassCosts

# Upper bounds of the assumed cost of a drafted token, in text from the prompt and in repetitions of the answer. Only
# back ends that gain nothing from several rows cost more: there copied text is generated at about 0.9 of the plain rate
# in half of the passes, and free text at the plain rate (counted over the answers to benchmarks/prompts.py).
_PROMPT_COST, _OWN_COST = 0.35, 0.7
MAX_POSITIONS = 64
"""Positions of one verifying pass, over all sequences."""
# On the CPU a position costs nearly as much in a pass of several as alone; on a GPU decoding is bound by memory.
# Constants for drafts that are sampled: their lengths decide the text of a seed, and must not depend on a clock.
CPU_COSTS, GPU_COSTS = Costs(verify=0.2), Costs(verify=0.03)


class Speculator:
    """Drafts the tokens of one sequence, each time by the source that is expected to gain more."""

    def __init__(self, lookup: LookupDrafter, drafter: ModelSpeculator | EagleSpeculator | None) -> None:
        self._lookup, self.drafter = lookup, drafter

    def is_likely(self, pending: int, sequences: int) -> bool:
        """Return whether a draft is to be expected once the `pending` tokens on the device are known.

        `sequences` are decoded together.
        """
        # Asked in any case: what isn't drafted is compared with the text too, and learned from.
        found = len(self._lookup.draft(sequences=sequences)) > pending
        return found or (self.drafter is not None and self.drafter.length.length_for(sequences) > 0)

    def choose(self, max_tokens: int, sequences: int) -> Draft | int:
        """Return what the text so far drafts, or how many tokens the drafter should: what is expected to gain more."""
        found = Draft(self._lookup.draft(max_tokens, sequences), source=LOOKUP)
        if self.drafter is None or max_tokens < 1:
            return found
        n, (_, gain) = self.drafter.length.length_for(sequences), self.drafter.length.best(sequences)
        return found if not n or (found.tokens and self._lookup.gain > gain) else min(n, max_tokens)

    def add(self, tokens: Sequence[int]) -> None:
        """Add the generated tokens of one forward pass."""
        self._lookup.add(tokens)
        if self.drafter is not None:
            self.drafter.add(tokens)
            self.drafter.length.skip()

    def record(self, draft: Draft, accepted: int) -> None:
        """Record how many tokens of a draft were accepted; lookups see it by themselves."""
        if self.drafter is not None and draft.source != LOOKUP:
            self.drafter.length.record(len(draft.tokens), accepted)

    @property
    def is_off(self) -> bool:
        """Whether the draft model or head is switched off, because its drafts didn't pay."""
        return self.drafter is not None and not self.drafter.length.length

    def watch(self, states: mx.array) -> None:
        """Take the tapped hidden states (1, n, width) of the next positions that the model has run."""
        if isinstance(self.drafter, EagleSpeculator):
            self.drafter.watch(states)

    def entries(self, length: int) -> HeadEntries | None:
        """Return what a draft head has of the first `length` tokens, a copy."""
        return self.drafter.entries(length) if isinstance(self.drafter, EagleSpeculator) else None


@dataclass(frozen=True)
class DraftRequest:
    """A draft of up to `max_tokens` tokens for a sequence; without a speculator an empty one."""

    speculator: Speculator | None
    max_tokens: int
    point: SamplingPoint


class Speculators:
    """Makes the speculator of each sequence, and the drafts of a batch."""

    def __init__(
        self, model: LlamaForCausalLM, draft: LlamaForCausalLM | EagleHead | None, *, cheap_verification: bool
    ) -> None:
        self._model, self._draft = model, draft
        share = _step_bytes(draft) / max(1, _step_bytes(model)) if draft is not None else 0.0
        self.sampled_costs = replace(GPU_COSTS if cheap_verification else CPU_COSTS, draft=share)
        """Costs where drafts are sampled."""
        self.greedy_costs = Costs(verify=1.0, draft=share, measured=PassCosts(model))
        """Costs where no choice depends on how long drafts are."""
        self.eagle = EagleDrafter(draft, model) if isinstance(draft, EagleHead) else None
        self.tap: FeatureTap | None = None
        """What the model's passes must be run with; None where no hidden states are needed."""
        if isinstance(draft, EagleHead):
            self.tap = FeatureTap(draft.config.depths_in(model.config.num_hidden_layers))

    def assume(self, costs: Costs) -> None:
        """Take these costs for all drafts, in place of measured and constant ones."""
        self.sampled_costs = self.greedy_costs = costs

    def watcher(self, prompt: Sequence[int], start: int, entries: HeadEntries | None = None) -> EagleSpeculator | None:
        """Return what watches the hidden states of a prompt from position `start` on; None where none are needed.

        `entries` are those of the positions before.
        """
        if self.eagle is None:
            return None
        return EagleSpeculator(self.eagle, prompt, start, self.greedy_costs, entries)

    def make(self, prompt: Sequence[int], watcher: EagleSpeculator | None = None, *, greedy: bool) -> Speculator:
        """Return the speculator of a sequence that begins with `prompt`; the first call measures what passes cost.

        `watcher` has watched the prompt, where hidden states are needed.
        """
        # Here and not with the first draft, when the device is busy with a step.
        self.greedy_costs.of(MAX_POSITIONS - 1)
        costs = self.greedy_costs if greedy or self._draft is None else self.sampled_costs
        text, own = (replace(costs, draft=0.0, verify=min(costs.verify, most)) for most in (_PROMPT_COST, _OWN_COST))
        lookup = LookupDrafter(prompt, costs=text, own_costs=own)
        if self.eagle is not None:
            # Without a watcher it is an answer that ended before its prompt was run.
            watched = watcher or EagleSpeculator(self.eagle, prompt, len(prompt), costs)
            return Speculator(lookup, watched.copy(costs))
        if isinstance(self._draft, LlamaForCausalLM):
            return Speculator(lookup, ModelSpeculator(self._draft, prompt, costs))
        return Speculator(lookup, None)

    def drafts(self, requests: Sequence[DraftRequest]) -> list[Draft]:
        """Return the drafts of all sequences of a batch; a draft head makes its own in one go."""
        made: list[Draft] = []
        orders: dict[int, DraftOrder] = {}
        for at, request in enumerate(requests):
            speculator = request.speculator
            chosen = Draft() if speculator is None else speculator.choose(request.max_tokens, len(requests))
            made.append(chosen if isinstance(chosen, Draft) else Draft())
            if isinstance(chosen, Draft) or speculator is None:
                continue
            if isinstance(speculator.drafter, EagleSpeculator):
                orders[at] = DraftOrder(speculator.drafter, chosen, request.point)
            elif speculator.drafter is not None:
                made[at] = speculator.drafter.draft(chosen, request.point)
        if self.eagle is not None and orders:
            for at, draft in zip(orders, self.eagle.draft(list(orders.values())), strict=True):
                made[at] = draft
        return made

    def leave(self, speculator: Speculator | None, *, stays: bool = False) -> None:
        """Take a sequence out of the batch; if it `stays`, it is decoded again later."""
        if self.eagle is not None and speculator is not None and isinstance(speculator.drafter, EagleSpeculator):
            self.eagle.leave(speculator.drafter, stays=stays)

    def clear(self) -> None:
        """Forget all sequences of the batch."""
        if self.eagle is not None:
            self.eagle.clear()


def _step_bytes(model: LlamaForCausalLM | EagleHead) -> int:
    """Return the bytes of weights that a step reads: all but an embedding of which it reads one row."""
    weights = cast(list[tuple[str, mx.array]], tree_flatten(model.parameters()))
    tied = isinstance(model, LlamaForCausalLM) and "lm_head" not in model
    return sum(array.nbytes for name, array in weights if tied or "embed_tokens." not in name)
