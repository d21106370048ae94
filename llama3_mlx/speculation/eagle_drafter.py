"""Drafts with a draft head for all sequences of a batch at once: each step of their drafts is one pass of the head.

The head runs over the hidden states of passes that the model runs anyway. A sequence joins with its first draft: its
entries become a row of the one cache, as a sequence is a row of the model's.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import mlx.core as mx
import numpy as np

from ..kv_cache import ModelCache
from ..model.transformer import LlamaForCausalLM
from .draft import HEAD, Draft, SamplingPoint, sample_drafted
from .eagle_head import EagleHead
from .eagle_speculator import EagleSpeculator


@dataclass(frozen=True)
class DraftOrder:
    """A draft of `n` tokens, at least one, for a sequence."""

    sequence: EagleSpeculator
    n: int
    point: SamplingPoint


class EagleDrafter:
    """A draft head and the sequences of the batch that it drafts for."""

    def __init__(self, head: EagleHead, target: LlamaForCausalLM) -> None:
        """`target` lends its embedding to a head without one of its own."""
        self.head, self._target = head, target
        self._narrow: mx.array | None = None
        self.cache: ModelCache = head.make_cache()
        """A row for each sequence that has joined."""
        self._rows: list[EagleSpeculator] = []

    def draft(self, orders: Sequence[DraftOrder]) -> list[Draft]:
        """Return a draft for each order; the device computes all of them before the host reads one."""
        for order in orders:
            self._join(order.sequence)
        self._run(self._rows, self.cache)
        rows = {self._rows.index(o.sequence): o for o in orders if o.sequence.is_current}
        if not rows:
            return [Draft(source=HEAD) for _ in orders]
        tokens, proposals = self._generate(rows)
        made = {}
        for row, order in rows.items():
            own = [step[row] for step in proposals[: order.n]]
            drawn = [proposal for proposal in own if proposal is not None]
            made[id(order)] = Draft(
                [step[row] for step in tokens[: order.n]], mx.concatenate(drawn) if drawn else None, HEAD
            )
        return [made.get(id(order), Draft(source=HEAD)) for order in orders]

    def catch_up(self, sequence: EagleSpeculator) -> None:
        """Run the head over what is ready of a sequence, and of those that share its cache."""
        if sequence.cache is None:
            self._run(self._rows, self.cache)
            mx.async_eval(self.cache.arrays)
        else:
            self._run([sequence], sequence.cache)
            mx.async_eval(sequence.cache.arrays)

    def copied(self, sequence: EagleSpeculator) -> ModelCache:
        """Return a copy of a sequence's entries."""
        if sequence.cache is not None:
            return sequence.cache.copy()
        return self.cache.take(self._rows.index(sequence))

    def leave(self, sequence: EagleSpeculator, *, stays: bool) -> None:
        """Take a sequence out of the batch; if it `stays`, with its entries: it is decoded again later."""
        if sequence.cache is not None:
            return
        row = self._rows.index(sequence)
        sequence.cache = self.cache.take(row) if stays else self.head.make_cache()
        self.cache.pop(row)
        self._rows[row] = self._rows[-1]
        self._rows.pop()

    def clear(self) -> None:
        """Forget all sequences of the batch."""
        self._rows, self.cache = [], self.head.make_cache()

    def _embed(self, tokens: mx.array) -> mx.array:
        """Return the embeddings (B, L, D) that the head was trained on: without the adapters over the target's."""
        owner = self.head if self.head.config.own_embedding else self._target.model
        embedding: Any = owner.embed_tokens
        return cast(mx.array, embedding.get("base", embedding)(tokens))

    def _embed_narrow(self, tokens: mx.array) -> mx.array:
        """Return the embeddings (B, 1, D) of the reduced vocabulary's own ids (B,).

        They are kept unquantized, one gather a step in place of three, the unpacking and the map to the target's ids.
        """
        if self._narrow is None:
            assert self.head.token_ids is not None, "the vocabulary is reduced"
            self._narrow = self._embed(self.head.token_ids[None])[0].astype(self.head.norm.weight.dtype)
        return self._narrow[tokens[:, None]]

    def step(self, tokens: mx.array, h: mx.array) -> tuple[mx.array, mx.array]:
        """Draft greedily behind tokens (B,), of the reduced vocabulary's ids; return the next ones and outputs."""
        h = self.head(self._embed_narrow(tokens), h, self.cache)
        return mx.argmax(self.head.head(h[:, -1]), axis=-1), h

    def _join(self, sequence: EagleSpeculator) -> None:
        if sequence.cache is None:
            return
        self._run([sequence], sequence.cache)
        # A sequence without any entry has no row to add.
        if sequence.is_current:
            self.cache.append(sequence.cache)
            self._rows.append(sequence)
            sequence.cache = None

    def _run(self, sequences: Sequence[EagleSpeculator], cache: ModelCache) -> None:
        """Run the head over what is ready of the sequences, which are the rows of the cache."""
        counts = [sequence.ready for sequence in sequences]
        longest = max(counts, default=0)
        if not longest:
            return
        known = list(cache.lengths) or [0] * len(sequences)
        following, states = np.zeros((len(sequences), longest), np.int32), []
        for row, (sequence, n) in enumerate(zip(sequences, counts, strict=True)):
            part = None
            if n:
                following[row, :n], part = sequence.take(n)
            states.append((n, part))
        features = self.head.fuse(_padded(states, longest))
        h = self.head(self._embed(mx.array(following)), features, cache)
        for row, (sequence, n) in enumerate(zip(sequences, counts, strict=True)):
            # Padding has been cached behind a row's own positions.
            cache.trim(known[row] + n, row)
            if n:
                sequence.last = h[row : row + 1, n - 1 : n]

    def _generate(self, rows: dict[int, DraftOrder]) -> tuple[list[list[int]], list[list[mx.array | None]]]:
        """Return each step's tokens and distributions by row; rows without an order run along, to no effect."""
        known, some = list(self.cache.lengths), next(iter(rows.values()))
        points = [rows[row].point if row in rows else some.point for row in range(len(self._rows))]
        h = _joined([cast(mx.array, sequence.last) for sequence in self._rows])
        n = max(order.n for order in rows.values())
        if self.head.token_ids is not None and all(sampling.greedy for sampling, _, _ in points):
            drafted = self._greedy(h, n)
            proposals: list[list[mx.array | None]] = [[None] * len(points)] * n
        else:
            drafted, proposals = self._sampled(h, n, points)
        for row, length in enumerate(known):
            self.cache.trim(length, row)
        return cast(list[list[int]], drafted.tolist()), proposals

    def _greedy(self, h: mx.array, n: int) -> mx.array:
        """Return `n` steps' tokens (n, B) of a reduced vocabulary, mapped to the target's at the end."""
        assert self.head.token_ids is not None, "the vocabulary is reduced"
        drafted = [mx.argmax(self.head.head(h[:, -1]), axis=-1)]
        while len(drafted) < n:
            tokens, h = self.step(drafted[-1], h)
            drafted.append(tokens)
        return self.head.token_ids[mx.stack(drafted)]

    def _sampled(
        self, h: mx.array, n: int, points: Sequence[SamplingPoint]
    ) -> tuple[mx.array, list[list[mx.array | None]]]:
        """Return `n` steps' tokens (n, B) and the distributions that they were drawn from."""
        sampled: list[mx.array] = []
        proposals = []
        for index in range(n):
            if index:
                h = self.head(self._embed(sampled[-1][:, None]), h, self.cache)
            now = [(sampling, seed, step + index) for sampling, seed, step in points]
            tokens, drawn = sample_drafted(
                self.head.head(h[:, -1]), now, ids=self.head.token_ids, widen=self.head.over_vocabulary
            )
            sampled.append(tokens)
            proposals.append(drawn)
        return mx.stack(sampled), proposals


def _padded(parts: Sequence[tuple[int, mx.array | None]], longest: int) -> mx.array:
    """Return hidden states (B, longest, width) of n positions each, zeros behind them."""
    some = next(part for _, part in parts if part is not None)
    made = []
    for n, part in parts:
        if part is None:
            made.append(mx.zeros((1, longest, some.shape[-1]), some.dtype))
        else:
            made.append(part if n == longest else mx.pad(part, [(0, 0), (0, longest - n), (0, 0)]))
    return _joined(made)


def _joined(arrays: Sequence[mx.array]) -> mx.array:
    """Return the arrays as rows of one."""
    return arrays[0] if len(arrays) == 1 else mx.concatenate(list(arrays))
