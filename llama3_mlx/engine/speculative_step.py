"""The parts of one speculative step: whether to draft, the drafts, their verification in one forward pass.

What a step does with their outcome (trim the KV cache, record it, take the tokens) is in batch.py.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import mlx.core as mx
import numpy as np

from ..generation.sampling import Sampling, probabilities, uniforms
from ..speculation.draft import Draft
from ..speculation.rejection_sampling import accept_sampled
from ..speculation.speculators import DraftRequest, Speculators
from .sequence import DecodingSequence
from .token_choice import LogprobArrays, SampledTokens, SamplingPosition, choose_tokens, process_logits, token_logprobs


@dataclass
class Verified:
    """The tokens that one sequence gets: the accepted draft tokens and one more, and how many were accepted."""

    tokens: list[int]
    logprobs: list[LogprobArrays]
    accepted: int


def drafting_pays(sequences: Sequence[DecodingSequence], max_tokens: int) -> bool:
    """Return whether a step with drafts is likely to give more tokens for its time than a plain one.

    A verifying pass is as wide for every sequence as its longest draft, and the host has to wait for the latest tokens
    before it can draft: a few drafts in a large batch don't pay. At least half of the sequences must expect one.
    """
    # Every speculator is asked, also where the answer is clear: those that are switched off watch their own guesses.
    n = len(sequences)
    likely = [s.speculator.is_likely(0 if s.is_read else 1, n) for s in sequences if s.speculator is not None]
    return max_tokens >= 1 and bool(likely) and 2 * sum(likely) >= len(sequences)


def make_drafts(sequences: Sequence[DecodingSequence], max_tokens: int, speculators: Speculators) -> list[Draft]:
    """Return each sequence's draft of up to `max_tokens` tokens, cut to what its constraint allows."""
    requests = [
        DraftRequest(s.speculator, min(max_tokens, s.remaining - 1), (s.sampling, s.seed, s.n_sampled))
        for s in sequences
    ]
    return [_allowed(*pair) for pair in zip(sequences, speculators.drafts(requests), strict=True)]


def draft_inputs(sequences: Sequence[DecodingSequence], drafts: Sequence[Draft]) -> mx.array:
    """Return each sequence's latest token and its draft (B, L), padded at the end."""
    table = np.zeros((len(sequences), 1 + max(len(draft.tokens) for draft in drafts)), np.int32)
    for index, (sequence, draft) in enumerate(zip(sequences, drafts, strict=True)):
        table[index, : 1 + len(draft.tokens)] = [sequence.tokens[-1], *draft.tokens]
    return mx.array(table)


def real_positions(drafts: Sequence[Draft], width: int) -> mx.array:
    """Return which of the B * L positions aren't padding."""
    return mx.array([row * width + i for row, draft in enumerate(drafts) for i in range(1 + len(draft.tokens))])


def verify_drafts(sequences: Sequence[DecodingSequence], drafts: Sequence[Draft], logits: mx.array) -> list[Verified]:
    """Return the tokens of each sequence, from the logits (N, V) of the positions that aren't padding.

    Looked-up drafts are compared with the model's own choices, sampled drafts verified by rejection sampling. The
    penalties of the sequences are updated.
    """
    by_sequence = [sequence.positions(draft.tokens) for sequence, draft in zip(sequences, drafts, strict=True)]
    positions = [position for found in by_sequence for position in found]
    starts = [int(start) for start in np.cumsum([0, *map(len, by_sequence)])]
    rejections = _rejections(by_sequence, drafts, logits, starts)
    all_sampled = len(rejections) == len(drafts)
    chosen = SampledTokens(mx.zeros(0, mx.int32), {}) if all_sampled else choose_tokens(positions, logits)
    mx.eval(chosen.arrays, list(rejections.values()))
    tokens = cast(list[int], chosen.tokens.tolist())
    verified = []
    for index, (sequence, draft) in enumerate(zip(sequences, drafts, strict=True)):
        start, stop = starts[index], starts[index + 1]
        if index in rejections:
            verified.append(_sampled(sequence, draft, rejections[index], logits[start:stop]))
        else:
            logprobs = [chosen.logprobs[i] for i in range(start, stop) if i in chosen.logprobs]
            verified.append(_equal(sequence, draft, tokens[start:stop], by_sequence[index], logprobs))
    return verified


def _allowed(sequence: DecodingSequence, draft: Draft) -> Draft:
    """Cut a draft before the first token that ends the answer or that the constraint doesn't allow."""
    stop = next((i for i, token in enumerate(draft.tokens) if token in sequence.stop_ids), len(draft.tokens))
    if sequence.constraint is not None and stop:
        stop = min(stop, sequence.constraint.validate_tokens(draft.tokens[:stop]))
    return draft.cut(stop)


def _equal(
    sequence: DecodingSequence,
    draft: Draft,
    choices: list[int],
    positions: Sequence[SamplingPosition],
    logprobs: list[LogprobArrays],
) -> Verified:
    """Accept the drafted tokens that are what plain decoding chooses.

    Lossless for greedy decoding and for sampling. Choice i is what plain decoding would take after the draft's first i
    tokens: the most likely, or the one that the random numbers of that position pick from the model's distribution.
    The first choice is plain decoding's first token. If it equals the first drafted one, the second choice was made
    after the very text that plain decoding has there, by the same rule and numbers, so that it is plain decoding's
    second token; and so on to the first choice that differs from the draft. Up to rounding (logits of a pass over
    several tokens differ in their last bits from those of single ones), the text is that of plain decoding with the
    same seed, whatever is drafted and however long the drafts are.
    """
    accepted = next((i for i, token in enumerate(draft.tokens) if token != choices[i]), len(draft.tokens))
    sequence.penalties = positions[accepted].penalties
    return Verified(choices[: accepted + 1], logprobs[: accepted + 1], accepted)


def _rejections(
    by_sequence: Sequence[Sequence[SamplingPosition]], drafts: Sequence[Draft], logits: mx.array, starts: Sequence[int]
) -> dict[int, tuple[mx.array, mx.array]]:
    """Return the numbers of accepted tokens and the next tokens of the sampled drafts, by sequence."""
    groups: dict[tuple[Sampling, int], list[int]] = defaultdict(list)
    for index, draft in enumerate(drafts):
        if draft.proposal is not None:
            groups[by_sequence[index][0].sampling, len(draft.tokens)].append(index)
    found: dict[int, tuple[mx.array, mx.array]] = {}
    for group in groups.values():
        rows = [row for index in group for row in range(starts[index], starts[index + 1])]
        own = logits if len(rows) == logits.shape[0] else logits[mx.array(rows)]
        counts, after = reject([by_sequence[index] for index in group], [drafts[index] for index in group], own)
        found |= {index: (counts[at], after[at]) for at, index in enumerate(group)}
    return found


def reject(
    by_sequence: Sequence[Sequence[SamplingPosition]], drafts: Sequence[Draft], logits: mx.array
) -> tuple[mx.array, mx.array]:
    """Return how many tokens of each sampled draft are accepted and the token after them, (B,) each.

    The drafts are equally long and sampled by equal settings; logits (N, V) are those of all their positions.
    """
    positions = [position for found in by_sequence for position in found]
    numbers = mx.array([uniforms(position.seed, position.step) for position in positions], mx.float32)
    target = probabilities(positions[0].sampling, process_logits(positions, logits), numbers)
    shape = len(drafts), len(by_sequence[0])
    proposals = mx.stack([cast(mx.array, draft.proposal) for draft in drafts])
    tokens, numbers = mx.array([list(draft.tokens) for draft in drafts]), numbers.reshape(*shape, -1)
    # A position's first number draws its token in plain decoding too, whichever pass comes to draw it.
    return accept_sampled(target.reshape(*shape, -1), proposals, tokens, numbers[:, :-1, 2], numbers[:, :, 0])


def _sampled(
    sequence: DecodingSequence, draft: Draft, outcome: tuple[mx.array, mx.array], logits: mx.array
) -> Verified:
    accepted, last = int(cast(int, outcome[0].item())), int(cast(int, outcome[1].item()))
    tokens = [*draft.tokens[:accepted], last]
    if sequence.penalties is not None:
        for token in tokens:
            sequence.penalties = sequence.penalties.add(mx.array([token]))
    n = sequence.options.logprobs
    logprobs = [] if n is None else [token_logprobs(logits[i], mx.array([t]), n) for i, t in enumerate(tokens)]
    return Verified(tokens, logprobs, accepted)
