"""The rows that are being written: one forward pass a step for all of them.

The device runs one step ahead of the host: while the host reads a step's tokens, the next step computes from them.
Where an answer has to follow a grammar, the next step's logits compute while the host finds what the grammar allows,
and only the choice waits for it.
"""

from collections.abc import Callable, Sequence
from typing import cast

import mlx.core as mx

from ..generation.completion import TokenLogprob
from ..kv_cache import ModelCache
from ..model.transformer import LlamaForCausalLM
from .row import Row, as_logprob
from .speculative_step import Verified, as_tokens, drafts_of, positions, verify
from .token_choice import SampledTokens, SamplingPosition, choose

# Gives the memory of freed intermediate results back to the allocator.
_CLEAR_EVERY = 256
# Positions of one verifying pass, over all rows.
_MOST_POSITIONS = 64


class Batch:
    """Rows and their cache. `select` applies the rows' adapters; `on_end` sees a row and its cache when it ends."""

    def __init__(
        self,
        model: LlamaForCausalLM,
        cache: ModelCache,
        select: Callable[[Sequence[Row]], None],
        on_end: Callable[[Row, Callable[[], ModelCache]], None],
    ) -> None:
        self.model, self.cache = model, cache
        self.rows: list[Row] = []
        self.steps = 0
        self._select, self._on_end = select, on_end
        self._ahead: SampledTokens | None = None
        """The latest token of each row, which hasn't been run."""

    def add(self, rows: Sequence[Row], cache: ModelCache, logits: mx.array) -> None:
        """Take in the rows of one prompt, whose cache has one row, and choose their first tokens from (1, V)."""
        for row in rows:
            self.cache.append(cache)
            self.rows.append(row)
        first = self._choose(rows, mx.broadcast_to(logits, (len(rows), logits.shape[-1])))
        mx.async_eval(first.arrays)
        self._add_ahead(first)

    def resume(self, row: Row, cache: ModelCache) -> None:
        """Take back a row that made room: its cache has all but the latest token."""
        self.cache.append(cache)
        self.rows.append(row)
        self._add_ahead(SampledTokens(mx.array(row.tokens[-1:], mx.int32), {}))

    def evict(self, row: Row) -> bool:
        """Take a row out that is to be resumed later; False if it has ended with its latest token."""
        self._take()
        self._keep_running()
        if row not in self.rows:
            return False
        order = list(range(len(self.rows)))
        self._pop(self.rows.index(row), order)
        self._pick_ahead(order)
        return True

    def step(self) -> None:
        """Give each row its next token and start the one after it; rows that have ended leave."""
        self.steps += 1
        if not self._speculate():
            if any(row.constraint is not None for row in self.rows):
                self._step_constrained()
            else:
                self._step_ahead()
        if self.steps % _CLEAR_EVERY == 0:
            mx.clear_cache()

    def drop_ended(self) -> None:
        """Take out the rows whose `ended` is set."""
        self._keep_running()

    def _step_ahead(self) -> None:
        following = None
        if self._goes_on:
            following = self._choose(self.rows, self._forward())
            mx.async_eval(following.arrays)
        self._take()
        self._put_ahead(following)
        self._keep_running()

    def _step_constrained(self) -> None:
        if not self._goes_on:
            self._step_ahead()
            return
        logits = self._forward()
        mx.async_eval(logits)
        self._take()
        self._ahead = None
        order = self._keep_running()
        if self.rows:
            following = self._choose(self.rows, logits if order is None else logits[mx.array(order)])
            mx.async_eval(following.arrays)
            self._put_ahead(following)

    def _add_ahead(self, chosen: SampledTokens) -> None:
        """Put the latest tokens of rows that have come behind those of the others."""
        self._ahead = chosen if self._ahead is None else _joined(self._ahead, chosen)

    def _put_ahead(self, following: SampledTokens | None) -> None:
        """Make these the tokens that the rows haven't taken yet."""
        self._ahead = following
        for row in self.rows:
            row.seen = False

    @property
    def _goes_on(self) -> bool:
        """Whether any row has room behind the tokens that are ahead."""
        return any(row.room > (0 if row.seen else 1) for row in self.rows)

    def _speculate(self) -> bool:
        """Verify drafts in one pass, if there are any; return whether that was done.

        A draft follows known tokens: the host waits for those that are ahead where a draft is likely, and nowhere else.
        """
        most = self._longest_draft()
        # Each is asked: those that are switched off watch what they would have drafted.
        likely = [row.speculator.likely(0 if row.seen else 1) for row in self.rows if row.speculator is not None]
        # Every row is as wide as the longest draft: a few drafts among many rows don't pay.
        if most < 1 or not likely or 2 * sum(likely) < len(self.rows):
            return False
        self._take()
        self._keep_running()
        if not self.rows:
            return True
        drafts = drafts_of(self.rows, most)
        if not any(draft.tokens for draft in drafts):
            return False
        tokens = as_tokens(self.rows, drafts)
        before = list(self.cache.lengths)
        self._select(self.rows)
        h = self.model.hidden(tokens, self.cache)
        h = h.reshape(-1, h.shape[-1])[positions(drafts, tokens.shape[1])]
        verified = verify(self.rows, drafts, self.model.head(h))
        for at, (row, draft, found) in enumerate(zip(self.rows, drafts, verified, strict=True)):
            self.cache.trim(before[at] + 1 + found.accepted, at)
            row.passes += 1
            row.chosen += len(found.tokens)
            if row.speculator is not None:
                row.speculator.record(len(draft.tokens), found.accepted)
                row.speculator.wrote(found.tokens)
            _take_all(row, found)
        self._ahead = SampledTokens(mx.array([found.tokens[-1] for found in verified], mx.int32), {})
        self._keep_running()
        return True

    def _longest_draft(self) -> int:
        """Return how many tokens each row may draft: few where there are many rows, none where a window is full."""
        if not self.rows:
            return 0
        most = _MOST_POSITIONS // len(self.rows) - 1
        window = self.cache.options.window
        return most if window is None else min(most, window - 1 - max(self.cache.lengths))

    def _forward(self) -> mx.array:
        """Run the tokens that are ahead; return logits (B, V), unevaluated."""
        assert self._ahead is not None, "rows have a token ahead"
        self._select(self.rows)
        for row in self.rows:
            row.passes += 1
        return self.model.head(self.model.hidden(self._ahead.tokens[:, None], self.cache)[:, -1])

    def _choose(self, rows: Sequence[Row], logits: mx.array) -> SampledTokens:
        places = [place_of(row) for row in rows]
        chosen = choose(places, logits)
        for row, place in zip(rows, places, strict=True):
            row.penalties = place.penalties
            row.chosen += 1
        return chosen

    def _take(self) -> None:
        """Hand the tokens that are ahead to their rows, if they haven't seen them."""
        assert self._ahead is not None, "rows have a token ahead"
        if all(row.seen for row in self.rows):
            return
        tokens = cast(list[int], self._ahead.tokens.tolist())
        for at, (row, token) in enumerate(zip(self.rows, tokens, strict=True)):
            if row.seen:
                continue
            row.seen = True
            triple = self._ahead.logprobs.get(at)
            row.take(token, None if triple is None else read_logprob(token, triple))
            row.give_out()
            if row.speculator is not None:
                row.speculator.wrote((token,))

    def _keep_running(self) -> list[int] | None:
        """Take out rows that have ended; return which old rows the new ones are, None if all stay."""
        if not any(row.ended for row in self.rows):
            return None
        order = list(range(len(self.rows)))
        for at in range(len(self.rows) - 1, -1, -1):
            row = self.rows[at]
            if row.ended is None:
                continue
            self._on_end(row, lambda at=at: self.cache.take(at))  # type: ignore[misc]
            self._pop(at, order)
            row.end()
        self._pick_ahead(order)
        return order

    def _pop(self, at: int, order: list[int]) -> None:
        """Take a row out, the last one moving into its place; `order` tells which old rows the new ones are."""
        self.cache.pop(at)
        self.rows[at], order[at] = self.rows[-1], order[-1]
        self.rows.pop()
        order.pop()

    def _pick_ahead(self, order: Sequence[int]) -> None:
        if self._ahead is not None:
            self._ahead = _picked(self._ahead, order)


def _take_all(row: Row, found: Verified) -> None:
    """Give a row the tokens of a pass, up to the one that ends it."""
    for at, token in enumerate(found.tokens):
        row.take(token, read_logprob(token, found.logprobs[at]) if found.logprobs else None)
        if row.ended:
            break
    row.give_out()


def place_of(row: Row) -> SamplingPosition:
    """Return what the row's next token depends on."""
    masks = row.masks([])
    mask = None if masks is None else masks[0]
    return SamplingPosition(row.sampling, row.seed, row.chosen, row.penalties, mask, row.options.logprobs)


def read_logprob(token: int, triple: tuple[mx.array, mx.array, mx.array]) -> TokenLogprob:
    """Bring one token's log-probabilities to the host."""
    logprob, ids, values = (array.tolist() for array in triple)
    return as_logprob(token, cast(list[float], logprob)[0], cast(list[int], ids), cast(list[float], values))


def _joined(first: SampledTokens, second: SampledTokens) -> SampledTokens:
    n = first.tokens.shape[0]
    logprobs = first.logprobs | {n + at: triple for at, triple in second.logprobs.items()}
    return SampledTokens(mx.concatenate([first.tokens, second.tokens]), logprobs)


def _picked(chosen: SampledTokens, order: Sequence[int]) -> SampledTokens | None:
    if not order:
        return None
    logprobs = {at: chosen.logprobs[old] for at, old in enumerate(order) if old in chosen.logprobs}
    return SampledTokens(chosen.tokens[mx.array(list(order))], logprobs)
