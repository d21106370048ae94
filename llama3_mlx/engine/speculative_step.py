"""One pass over the drafts of all rows: which drafted tokens stand, and the token after them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import mlx.core as mx
import numpy as np

from ..generation.sampling import probabilities, uniforms
from ..speculation.rejection_sampling import accept_sampled
from ..speculation.speculators import Draft
from .row import Row
from .token_choice import SampledTokens, SamplingPosition, choose, shaped, token_logprobs


@dataclass
class Verified:
    """What one row writes: drafted tokens that stand and one more, and how many of the draft stood."""

    tokens: list[int]
    logprobs: list[tuple[mx.array, mx.array, mx.array]]
    accepted: int


def drafts_of(rows: Sequence[Row], most: int) -> list[Draft]:
    """Return each row's draft of up to `most` tokens, cut to what its form allows."""
    return [_allowed(row, _draft(row, min(most, row.room - 1))) for row in rows]


def as_tokens(rows: Sequence[Row], drafts: Sequence[Draft]) -> mx.array:
    """Return each row's last token and its draft (B, L), padded behind."""
    width = 1 + max(len(draft.tokens) for draft in drafts)
    table = np.zeros((len(rows), width), np.int32)
    for at, (row, draft) in enumerate(zip(rows, drafts, strict=True)):
        table[at, : 1 + len(draft.tokens)] = [row.tokens[-1], *draft.tokens]
    return mx.array(table)


def positions(drafts: Sequence[Draft], width: int) -> mx.array:
    """Return which of the B * L positions count."""
    return mx.array([row * width + at for row, draft in enumerate(drafts) for at in range(1 + len(draft.tokens))])


def verify(rows: Sequence[Row], drafts: Sequence[Draft], logits: mx.array) -> list[Verified]:
    """Return what each row writes, from the logits (N, V) of the positions that count; rows' penalties go along."""
    places = [place for row, draft in zip(rows, drafts, strict=True) for place in _places(row, draft)]
    drawn = [draft.proposal is not None for draft in drafts]
    chosen = choose(places, logits) if not all(drawn) else SampledTokens(mx.zeros(0, mx.int32), {})
    starts = np.cumsum([0, *(1 + len(draft.tokens) for draft in drafts)])
    rejections = {
        at: _reject(places[starts[at] : starts[at + 1]], drafts[at], logits[int(starts[at]) : int(starts[at + 1])])
        for at in range(len(rows))
        if drawn[at]
    }
    mx.eval(chosen.arrays, list(rejections.values()))
    tokens = cast(list[int], chosen.tokens.tolist()) if not all(drawn) else []
    written = []
    for at, (row, draft) in enumerate(zip(rows, drafts, strict=True)):
        start = int(starts[at])
        if at in rejections:
            written.append(_drawn(row, draft, rejections[at], logits[start : int(starts[at + 1])]))
        else:
            written.append(_equal(row, draft, tokens[start : int(starts[at + 1])], places, start, chosen))
    return written


def _draft(row: Row, most: int) -> Draft:
    if row.speculator is None or most < 1:
        return Draft()
    return row.speculator.draft(most, row.sampling, row.seed, row.chosen)


def _allowed(row: Row, draft: Draft) -> Draft:
    """Cut a draft before the first token that the row's form or the model's own end doesn't allow."""
    stop = next((at for at, token in enumerate(draft.tokens) if token in row.stop_ids), len(draft.tokens))
    if row.constraint is not None and stop:
        stop = min(stop, row.constraint.validate_tokens(draft.tokens[:stop]))
    return draft.cut(stop)


def _places(row: Row, draft: Draft) -> list[SamplingPosition]:
    """Return a place for each position of a row: after the last token, after that and one drafted, and so on."""
    places, penalties, masks = [], row.penalties, row.masks(draft.tokens)
    for at in range(1 + len(draft.tokens)):
        mask = None if masks is None else masks[at]
        places.append(SamplingPosition(row.sampling, row.seed, row.chosen + at, penalties, mask, row.options.logprobs))
        if at < len(draft.tokens):
            token = draft.tokens[at]
            penalties = penalties.add(mx.array([token])) if penalties is not None else None
    return places


def _equal(
    row: Row, draft: Draft, choices: list[int], places: Sequence[SamplingPosition], start: int, chosen: SampledTokens
) -> Verified:
    """Accept the drafted tokens that are what plain decoding chooses.

    Lossless for greedy decoding and for sampling. Choice i is what plain decoding would take after the draft's first i
    tokens: the likeliest, or the one that the random numbers of that position pick from the model's distribution. The
    first choice is plain decoding's first token. If it equals the first drafted one, the second choice was made after
    the very text that plain decoding has there, by the same rule and numbers, so that it is plain decoding's second
    token; and so on to the first choice that differs from the draft. The text is that of plain decoding with the same
    seed, whatever is drafted and however long the drafts are.
    """
    accepted = next((at for at, token in enumerate(draft.tokens) if token != choices[at]), len(draft.tokens))
    row.penalties = places[start + accepted].penalties
    logprobs = [chosen.logprobs[start + at] for at in range(accepted + 1) if start + at in chosen.logprobs]
    return Verified(choices[: accepted + 1], logprobs, accepted)


def _reject(places: Sequence[SamplingPosition], draft: Draft, logits: mx.array) -> tuple[mx.array, mx.array]:
    """Return count and next token by rejection sampling."""
    assert draft.proposal is not None, "drawn drafts have their distributions"
    numbers = mx.array([uniforms(place.seed, place.step) for place in places], mx.float32)
    before = [SamplingPosition(p.sampling, p.seed, p.step, p.penalties, p.mask) for p in places]
    target = probabilities(places[0].sampling, shaped(before, logits), numbers)
    ends = mx.concatenate([numbers[:-1, 2], numbers[-1:, 0]])
    return accept_sampled(target, draft.proposal, mx.array(draft.tokens), ends)


def _drawn(row: Row, draft: Draft, found: tuple[mx.array, mx.array], logits: mx.array) -> Verified:
    accepted, last = int(cast(int, found[0].item())), int(cast(int, found[1].item()))
    tokens = [*draft.tokens[:accepted], last]
    if row.penalties is not None:
        for token in tokens:
            row.penalties = row.penalties.add(mx.array([token]))
    n = row.options.logprobs
    logprobs = (
        [] if n is None else [token_logprobs(logits[at], mx.array([token]), n) for at, token in enumerate(tokens)]
    )
    return Verified(tokens, logprobs, accepted)
