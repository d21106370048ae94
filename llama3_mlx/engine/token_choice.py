"""From logits to tokens for the sequences of a batch: those with equal settings are sampled in one call."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from ..generation.custom_sampling import CustomSampling
from ..generation.penalties import Penalties
from ..generation.sampling import Sampling, make_sampler, uniforms
from ..structured.token_mask import apply_mask, mask_width

# The log-probability of a token (1,), and ids and log-probabilities (n,) of the most likely tokens.
LogprobArrays = tuple[mx.array, mx.array, mx.array]


@dataclass
class SamplingPosition:
    """A position whose token is to be sampled. After `choose_tokens`, its states include the sampled token."""

    sampling: Sampling
    seed: int
    step: int
    penalties: Penalties | None = None
    mask: np.ndarray | None = None
    """Bits of the tokens that the constraint allows, (ceil(V / 32),) uint32."""
    n_logprobs: int | None = None
    custom: CustomSampling | None = None
    error: Exception | None = None
    """What the caller's own functions raised; the token is then without meaning."""


@dataclass(frozen=True)
class SampledTokens:
    """Tokens (N,) on the device and, by position, the requested token logprobs."""

    tokens: mx.array
    logprobs: dict[int, LogprobArrays]

    @property
    def arrays(self) -> list[mx.array]:
        """All arrays."""
        return [self.tokens, *(array for triple in self.logprobs.values() for array in triple)]

    def joined(self, other: "SampledTokens") -> "SampledTokens":
        """Return these tokens and the other's after them."""
        n = self.tokens.shape[0]
        logprobs = self.logprobs | {n + index: triple for index, triple in other.logprobs.items()}
        return SampledTokens(mx.concatenate([self.tokens, other.tokens]), logprobs)

    def picked(self, order: Sequence[int]) -> "SampledTokens":
        """Return the tokens at the positions `order`, at least one."""
        logprobs = {index: self.logprobs[old] for index, old in enumerate(order) if old in self.logprobs}
        return SampledTokens(self.tokens[mx.array(list(order))], logprobs)


def process_logits(positions: Sequence[SamplingPosition], logits: mx.array) -> mx.array:
    """Return logits (N, V) after bias, penalties, the callers' own processors and the masks of constraints."""
    if any(position.penalties is not None or position.custom is not None for position in positions):
        logits = mx.concatenate([_processed(position, logits[i : i + 1]) for i, position in enumerate(positions)])
    if any(position.mask is not None for position in positions):
        free = np.full(mask_width(logits.shape[-1]), 0xFFFFFFFF, np.uint32)
        masks = [free if position.mask is None else position.mask for position in positions]
        logits = apply_mask(logits, mx.array(np.stack(masks)))
    return logits


def choose_tokens(positions: Sequence[SamplingPosition], raw: mx.array) -> SampledTokens:
    """Sample a token from each row of logits (N, V), all on the device."""
    logits = process_logits(positions, raw)
    groups: dict[Sampling | int, list[int]] = defaultdict(list)
    for index, position in enumerate(positions):
        own = position.custom is not None and position.custom.sampler is not None
        groups[index if own else position.sampling].append(index)
    if len(groups) == 1:
        tokens = _sampled(positions, logits)
    else:
        # Sampled group by group, then brought back into the order of the positions.
        parts = [_sampled([positions[i] for i in group], logits[mx.array(group)]) for group in groups.values()]
        tokens = mx.concatenate(parts)[mx.array(np.argsort([i for group in groups.values() for i in group]))]
    tokens = tokens.astype(mx.int32)
    for index, position in enumerate(positions):
        if position.penalties is not None:
            position.penalties = position.penalties.add(tokens[index : index + 1])
        if position.custom is not None:
            position.custom = position.custom.add(tokens[index : index + 1])
    requested = {index: p.n_logprobs for index, p in enumerate(positions) if p.n_logprobs is not None}
    return SampledTokens(tokens, {i: token_logprobs(raw[i], tokens[i : i + 1], n) for i, n in requested.items()})


def token_logprobs(logits: mx.array, token: mx.array, n: int) -> LogprobArrays:
    """Return the log-probability (1,) of a token (1,), and ids and log-probabilities (n,) of the most likely."""
    logprobs = logits.astype(mx.float32)
    logprobs = logprobs - mx.logsumexp(logprobs)
    if not n:
        return logprobs[token], mx.zeros(0, mx.int32), mx.zeros(0)
    ids = mx.argpartition(-logprobs, kth=n - 1)[:n]
    ids = ids[mx.argsort(-logprobs[ids])]
    return logprobs[token], ids, logprobs[ids]


def _processed(position: SamplingPosition, logits: mx.array) -> mx.array:
    """Return the logits (1, V) of one position after its penalties and the caller's processors."""
    if position.penalties is not None:
        logits = position.penalties.apply(logits)
    if position.custom is not None:
        try:
            return position.custom.process(logits)
        except Exception as error:
            # The caller's code, run on the thread that serves all requests: its error ends its own answer alone.
            position.error = error
    return logits


def _sampled(positions: Sequence[SamplingPosition], logits: mx.array) -> mx.array:
    """Sample from logits (N, V) of positions with equal settings, or of one with a sampler of the caller's."""
    first = positions[0]
    if first.custom is not None and first.custom.sampler is not None:
        try:
            return first.custom.sample(logits)
        except Exception as error:
            first.error = first.error or error
            return mx.zeros(1, mx.int32)
    settings = first.sampling
    if settings.greedy:
        return make_sampler(settings)(logits, mx.zeros((len(positions), 0)))
    numbers = mx.array([uniforms(position.seed, position.step) for position in positions], mx.float32)
    return make_sampler(settings)(logits, numbers)
