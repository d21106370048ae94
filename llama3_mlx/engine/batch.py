"""The sequences that are being decoded: one forward pass a step for all of them.

Decoding is asynchronous: the device computes one token ahead of the host. While the host reads a step's tokens, the
next step computes from them. Where a grammar constrains an answer, the next step's logits compute while the host finds
what the grammar allows, and only the sampling waits for it.

A step is `begin`, a pass over the latest tokens, and `complete`, the sampling from it. In a pipeline of processes other
batches begin theirs in between (see groups.py).
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import cast

import mlx.core as mx

from ..generation.completion import TokenLogprob
from ..kv_cache import CacheOptions, ModelCache
from ..model.transformer import LlamaForCausalLM
from ..speculation.draft import Draft
from ..speculation.speculators import MAX_POSITIONS, Speculators
from .sequence import DecodingSequence
from .speculative_step import Verified, draft_inputs, drafting_pays, make_drafts, real_positions, verify_drafts
from .token_choice import LogprobArrays, SampledTokens, choose_tokens


class Batch:
    """Sequences and their KV cache. Each is in the same place in `sequences`, the cache and the latest tokens."""

    def __init__(
        self,
        model: LlamaForCausalLM,
        options: CacheOptions,
        select: Callable[[Sequence[str | None]], None],
        on_finish: Callable[[DecodingSequence, Callable[[], ModelCache]], None],
        speculators: Speculators,
    ) -> None:
        """`select` applies an adapter to each sequence; `on_finish` gets a finished one and what copies its cache.

        `speculators` draft, and say which hidden states the speculator of each sequence watches.
        """
        self.model, self.cache = model, model.make_cache(options)
        self._speculators, self._tap = speculators, speculators.tap
        self.sequences: list[DecodingSequence] = []
        self._select, self._on_finish = select, on_finish
        self._latest: SampledTokens | None = None
        """The latest token of each sequence, which the model hasn't been run on, or is being run on."""
        self._is_under_way = False
        self._pass: tuple[mx.array, mx.array] | None = None
        """Of the pass that is under way, what the model has begun, and logits (B, V); None where no sequence gets
        another token."""

    def add(self, sequences: Sequence[DecodingSequence], cache: ModelCache, logits: mx.array) -> None:
        """Add the sequences of one prompt, given its cache and last logits (1, V), and sample their first tokens."""
        self.complete()
        for sequence in sequences:
            self.cache.append(cache)
            self.sequences.append(sequence)
        first = self._choose(sequences, mx.broadcast_to(logits, (len(sequences), logits.shape[-1])))
        mx.async_eval(first.arrays)
        self._latest = first if self._latest is None else self._latest.joined(first)

    def resume(self, sequence: DecodingSequence, cache: ModelCache) -> None:
        """Add a sequence that was preempted: its recomputed cache has all but the latest token."""
        self.complete()
        self.cache.append(cache)
        self.sequences.append(sequence)
        last = SampledTokens(mx.array(sequence.tokens[-1:], mx.int32), {})
        self._latest = last if self._latest is None else self._latest.joined(last)

    def preempt(self, sequence: DecodingSequence) -> bool:
        """Remove a sequence that is to be recomputed later; False if it has finished with its latest token."""
        self.complete()
        self._read_latest()
        self.finish()
        if sequence not in self.sequences:
            return False
        self._speculators.leave(sequence.speculator, stays=True)
        self._remove([self.sequences.index(sequence)])
        return True

    def begin(self) -> None:
        """Begin to run the latest tokens, unless no sequence gets another one."""
        self._is_under_way = True
        if not any(sequence.remaining > (0 if sequence.is_read else 1) for sequence in self.sequences):
            return
        assert self._latest is not None, "each sequence has a latest token"
        self._select([sequence.request.adapter for sequence in self.sequences])
        for sequence in self.sequences:
            sequence.count_pass()
        h = self.model.begin(self._latest.tokens[:, None], self.cache, self._tap)
        self._watch([1] * len(self.sequences))
        self._pass = h, self.model.head(h[:, -1])

    def complete(self) -> None:
        """Sample from the pass that is under way, on the device; give the sequences the tokens before, known by now."""
        if not self._is_under_way:
            return
        self._is_under_way = False
        if self._pass is not None:
            self.model.complete(self._pass[0])
            logits = self._pass[1]
            if all(sequence.constraint is None for sequence in self.sequences):
                self._pass, following = None, self._choose(self.sequences, logits)
                mx.async_eval(following.arrays)
                self._read_latest()
                self._set_latest(following)
                return
            mx.async_eval(logits)
        self._read_latest()
        # A grammar allows nothing after its end: finished sequences leave before the others sample.
        self._latest = None
        self.finish()
        if self._pass is not None:
            following = self._choose(self.sequences, self._pass[1])
            mx.async_eval(following.arrays)
            self._pass = None
            self._set_latest(following)

    def speculate(self) -> bool:
        """Verify drafts in one forward pass in place of decoding, where that pays; return whether it was done."""
        max_tokens = self._max_draft()
        if not drafting_pays(self.sequences, max_tokens):
            return False
        # A draft continues known tokens: only here does the host wait for those that the device is computing.
        self._read_latest()
        self.finish()
        if not self.sequences:
            return True
        drafts = make_drafts(self.sequences, max_tokens, self._speculators)
        if not any(draft.tokens for draft in drafts):
            return False
        lengths = list(self.cache.lengths)
        verified = verify_drafts(self.sequences, drafts, self._run_drafts(drafts))
        self._watch([1 + outcome.accepted for outcome in verified])
        for index, (sequence, draft, outcome) in enumerate(zip(self.sequences, drafts, verified, strict=True)):
            # The pass has cached every drafted position; rejected ones must not be attended to. What stays is the
            # token before the draft and the accepted part of it: the last new token is the next pass's input.
            self.cache.trim(lengths[index] + 1 + outcome.accepted, index)
            _record(sequence, draft, outcome)
            _take_all(sequence, outcome)
        # The host knows these tokens already, so that sequences stay read until the next sampling on the device.
        self._latest = SampledTokens(mx.array([outcome.tokens[-1] for outcome in verified], mx.int32), {})
        return True

    def finish(self) -> None:
        """Remove the sequences that have ended."""
        ended = [index for index, sequence in enumerate(self.sequences) if sequence.finish_reason is not None]
        if not ended:
            return
        for index in ended:
            self._on_finish(self.sequences[index], partial(self.cache.take, index))
        leaving = [self.sequences[index] for index in ended]
        for sequence in leaving:
            self._speculators.leave(sequence.speculator)
        self._remove(ended)
        for sequence in leaving:
            sequence.finish()

    def abandon(self) -> list[DecodingSequence]:
        """Drop everything and return the sequences, which stay unfinished."""
        sequences, self.sequences = self.sequences, []
        self._drop_pass()
        self._speculators.clear()
        self.cache = self.model.make_cache(self.cache.options)
        return sequences

    def _run_drafts(self, drafts: Sequence[Draft]) -> mx.array:
        """Run the latest tokens and the drafts; return the logits (N, V) of all positions that aren't padding."""
        tokens = draft_inputs(self.sequences, drafts)
        self._select([sequence.request.adapter for sequence in self.sequences])
        h = self.model.hidden(tokens, self.cache, tap=self._tap)
        # The head gets each sequence's positions one after another.
        pairs = zip(self.sequences, drafts, strict=True)
        self._select([sequence.request.adapter for sequence, draft in pairs for _ in range(1 + len(draft.tokens))])
        return self.model.head(h.reshape(-1, h.shape[-1])[real_positions(drafts, tokens.shape[1])])

    def _watch(self, counts: Sequence[int]) -> None:
        """Give each sequence's speculator the hidden states of its first positions of the pass, as many as count."""
        if self._tap is None:
            return
        states = self._tap.take()
        for index, (sequence, n) in enumerate(zip(self.sequences, counts, strict=True)):
            if sequence.speculator is not None:
                sequence.speculator.watch(states[index : index + 1, :n])

    def _max_draft(self) -> int:
        """Return how many tokens each sequence may draft: few in a large batch, none where a window is full."""
        if not self.sequences:
            return 0
        limit = MAX_POSITIONS // len(self.sequences) - 1
        window = self.cache.options.window
        # What a full window overwrites for a draft can't come back when the draft is rejected.
        return limit if window is None else min(limit, window - 1 - max(self.cache.lengths))

    def _choose(self, sequences: Sequence[DecodingSequence], logits: mx.array) -> SampledTokens:
        positions = [sequence.position() for sequence in sequences]
        sampled = choose_tokens(positions, logits)
        for sequence, position in zip(sequences, positions, strict=True):
            sequence.penalties, sequence.custom = position.penalties, position.custom
            sequence.n_sampled += 1
            if position.error is not None:
                sequence.fail(position.error)
        return sampled

    def _set_latest(self, sampled: SampledTokens) -> None:
        self._latest = sampled
        for sequence in self.sequences:
            sequence.is_read = False

    def _read_latest(self) -> None:
        """Wait for the latest tokens and give them to the sequences that haven't read them."""
        assert self._latest is not None, "each sequence has a latest token"
        if all(sequence.is_read for sequence in self.sequences):
            return
        tokens = cast(list[int], self._latest.tokens.tolist())
        for index, (sequence, token) in enumerate(zip(self.sequences, tokens, strict=True)):
            if sequence.is_read or sequence.error is not None:
                continue
            sequence.is_read = True
            arrays = self._latest.logprobs.get(index)
            sequence.take(token, None if arrays is None else read_logprob(token, arrays))
            sequence.text.flush()
            if sequence.speculator is not None:
                sequence.speculator.add((token,))

    def _remove(self, indices: Sequence[int]) -> None:
        """Remove sequences, the last one moving into each gap."""
        order = list(range(len(self.sequences)))
        for index in sorted(indices, reverse=True):
            self.cache.pop(index)
            self.sequences[index], order[index] = self.sequences[-1], order[-1]
            self.sequences.pop()
            order.pop()
        if not order:
            self._drop_pass()
        if self._latest is not None:
            self._latest = self._latest.picked(order)
        if self._pass is not None:
            self._pass = self._pass[0], self._pass[1][mx.array(order)]

    def _drop_pass(self) -> None:
        """Forget the latest tokens and the pass over them."""
        if self._pass is not None:
            # It must be received all the same, or the next pass would get it.
            self.model.complete(self._pass[0])
        self._latest, self._pass, self._is_under_way = None, None, False


def _record(sequence: DecodingSequence, draft: Draft, outcome: Verified) -> None:
    """Count a verifying pass and tell the speculator what came of its draft."""
    sequence.count_pass(draft, outcome.accepted)
    sequence.n_sampled += len(outcome.tokens)
    if sequence.speculator is not None:
        sequence.speculator.record(draft, outcome.accepted)
        sequence.speculator.add(outcome.tokens)


def _take_all(sequence: DecodingSequence, outcome: Verified) -> None:
    """Give a sequence the tokens of a verifying pass, up to the one that ends it."""
    for index, token in enumerate(outcome.tokens):
        sequence.take(token, read_logprob(token, outcome.logprobs[index]) if outcome.logprobs else None)
        if sequence.finish_reason:
            break
    sequence.text.flush()


def read_logprob(token: int, arrays: LogprobArrays) -> TokenLogprob:
    """Bring the token logprobs of one position to the host."""
    logprob, ids, values = (array.tolist() for array in arrays)
    alternatives = zip(cast(list[int], ids), cast(list[float], values), strict=True)
    return TokenLogprob(token, cast(list[float], logprob)[0], tuple(alternatives))
