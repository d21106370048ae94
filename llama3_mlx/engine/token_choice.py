"""From logits to tokens for the rows of a batch: rows with equal settings are sampled in one call."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from ..generation.penalties import Penalties
from ..generation.sampling import Sampling, make_sampler, uniforms
from ..structured.token_mask import apply_mask, mask_width


@dataclass
class SamplingPosition:
    """A position whose token is to be chosen. After `choose`, `penalties` count the chosen token."""

    sampling: Sampling
    seed: int
    step: int
    penalties: Penalties | None = None
    mask: np.ndarray | None = None
    """Bits of the tokens that the answer's form allows, (ceil(V / 32),) uint32."""
    n_logprobs: int | None = None


@dataclass(frozen=True)
class SampledTokens:
    """Tokens (N,) on the device and, by place, the log-probabilities that were asked for.

    Each is (logprob (1,), ids (n,), values (n,)).
    """

    tokens: mx.array
    logprobs: dict[int, tuple[mx.array, mx.array, mx.array]]

    @property
    def arrays(self) -> list[mx.array]:
        """All arrays."""
        return [self.tokens, *(array for triple in self.logprobs.values() for array in triple)]


def shaped(places: Sequence[SamplingPosition], logits: mx.array) -> mx.array:
    """Return logits (N, V) after bias, penalties and the masks of grammars."""
    if any(place.penalties is not None for place in places):
        logits = mx.concatenate(
            [
                place.penalties.apply(logits[at : at + 1]) if place.penalties is not None else logits[at : at + 1]
                for at, place in enumerate(places)
            ]
        )
    if any(place.mask is not None for place in places):
        free = np.full(mask_width(logits.shape[-1]), 0xFFFFFFFF, np.uint32)
        masks = [free if place.mask is None else place.mask for place in places]
        logits = apply_mask(logits, mx.array(np.stack(masks)))
    return logits


def choose(places: Sequence[SamplingPosition], raw: mx.array) -> SampledTokens:
    """Choose a token from each row of logits (N, V), all on the device."""
    logits = shaped(places, raw)
    groups: dict[Sampling, list[int]] = defaultdict(list)
    for at, place in enumerate(places):
        groups[place.sampling].append(at)
    if len(groups) == 1:
        (settings,) = groups
        tokens = make_sampler(settings)(logits, _uniforms(settings, places))
    else:
        parts = [
            make_sampler(settings)(logits[mx.array(rows)], _uniforms(settings, [places[row] for row in rows]))
            for settings, rows in groups.items()
        ]
        order = np.argsort([row for rows in groups.values() for row in rows])
        tokens = mx.concatenate(parts)[mx.array(order)]
    tokens = tokens.astype(mx.int32)
    for at, place in enumerate(places):
        if place.penalties is not None:
            place.penalties = place.penalties.add(tokens[at : at + 1])
    wanted = {at: place.n_logprobs for at, place in enumerate(places) if place.n_logprobs is not None}
    return SampledTokens(tokens, {at: token_logprobs(raw[at], tokens[at : at + 1], n) for at, n in wanted.items()})


def token_logprobs(logits: mx.array, token: mx.array, n: int) -> tuple[mx.array, mx.array, mx.array]:
    """Return the log-probability (1,) of a token (1,), and ids and log-probabilities (n,) of the likeliest."""
    logprobs = logits.astype(mx.float32)
    logprobs = logprobs - mx.logsumexp(logprobs)
    if not n:
        return logprobs[token], mx.zeros(0, mx.int32), mx.zeros(0)
    ids = mx.argpartition(-logprobs, kth=n - 1)[:n]
    ids = ids[mx.argsort(-logprobs[ids])]
    return logprobs[token], ids, logprobs[ids]


def _uniforms(settings: Sampling, places: Sequence[SamplingPosition]) -> mx.array:
    if settings.greedy:
        return mx.zeros((len(places), 0))
    return mx.array([uniforms(place.seed, place.step) for place in places], mx.float32)
